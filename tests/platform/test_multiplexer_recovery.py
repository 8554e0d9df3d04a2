"""The multiplexer when it is closed, and when it loses connections."""

import asyncio
import gc
import os
import signal
import time
from itertools import pairwise

import psycopg
import pytest
from psycopg import errors

from db.connections.multiplexer import ConnectionStats, Multiplexer
from db.connections.pipeline import ConnectionUnavailable
from dev.local.embedded import Server
from tests.platform.fix_multiplexer import (
    BACKEND_PID,
    Route,
    connected,
    direct_and_uvloop,
    direct_only,
    outcome,
    until,
)

pytestmark = pytest.mark.anyio

TERMINATE_SELF = "select pg_terminate_backend(pg_backend_pid())"


@pytest.fixture
def anyio_backend(route: Route) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": route.use_uvloop}


# Closing


async def test_close_finishes_requests_that_were_accepted(route: Route) -> None:
    async with connected(route, connections=1, max_depth=2) as multiplexer:
        sql = "insert into marks select 'closing' from pg_sleep(0.05) returning mark"
        tasks = [asyncio.create_task(multiplexer.fetch([], sql)) for _ in range(4)]
        in_flight = 2 if route.use_names else 1
        await until(lambda: multiplexer.stats == ConnectionStats(1, in_flight, 4 - in_flight))
        closing = asyncio.create_task(multiplexer.close())
        await until(lambda: multiplexer._closing)
        with pytest.raises(ConnectionUnavailable):
            await multiplexer.fetch([], "select 1")
        await closing
        assert await asyncio.gather(*tasks) == [[(b"closing",)]] * 4
        assert not multiplexer.is_connected
    async with connected(route) as multiplexer:
        sql = "delete from marks where mark = 'closing' returning 1"
        assert await multiplexer.fetch([], sql) == [(b"1",)] * 4


async def test_close_cancels_statements_that_still_run_after_its_timeout(
    route: Route, multiplexer_server: Server
) -> None:
    async with connected(route, connections=1, statement_timeout=60) as multiplexer:
        sql = "select 'past the deadline', pg_sleep(60)"
        statement = asyncio.create_task(multiplexer.fetch([], sql))
        await until(lambda: multiplexer.stats.in_flight == 1)
        started = time.monotonic()
        await multiplexer.close(timeout=0.1)
        with pytest.raises((ConnectionUnavailable, errors.QueryCanceled)):
            await statement
        assert time.monotonic() - started < 5
    with psycopg.connect(multiplexer_server.url(), autocommit=True) as superuser:
        active = f"select from pg_stat_activity where state = 'active' and query = $${sql}$$"
        await until(lambda: not superuser.execute(active).fetchall())


@direct_only
async def test_close_ends_a_connection_attempt(route: Route) -> None:
    """PostgreSQL would keep the attempt for a minute, in which the database cannot be dropped."""
    started, ended = asyncio.Event(), asyncio.Event()

    async def never_respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        started.set()
        await reader.read()
        writer.close()
        ended.set()

    async with await asyncio.start_server(never_respond, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        multiplexer = Multiplexer(f"host=127.0.0.1 port={port}", connections=1, read_only=True)
        await multiplexer.open()
        await started.wait()
        gc.disable()
        try:
            await multiplexer.close()
            await asyncio.wait_for(ended.wait(), 2)
        finally:
            gc.enable()


# Lost connections


@direct_and_uvloop
async def test_reads_are_retried_after_a_lost_connection_and_writes_maybe_applied(
    route: Route, multiplexer_server: Server
) -> None:
    async with (
        connected(route, read_only=True) as reader,
        connected(route, connections=1) as writer,
    ):
        reads = [
            asyncio.create_task(reader.fetch([], f"select {n} from pg_sleep(0.2)"))
            for n in range(10)
        ]
        sql = "insert into marks select 'lost' from pg_sleep(5)"
        write = asyncio.create_task(writer.fetch([], sql, statement_timeout=9))
        await until(lambda: writer.stats.in_flight == 1 and reader.stats.in_flight == 10)
        with psycopg.connect(multiplexer_server.url(), autocommit=True) as superuser:
            superuser.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'app'"
            )
        with pytest.raises(ConnectionUnavailable) as error:
            await write
        assert error.value.maybe_applied
        assert "administrator command" in str(error.value)
        assert await asyncio.gather(*reads) == [[(b"%d" % n,)] for n in range(10)]
        expected = ConnectionStats(2, 0, 0), ConnectionStats(1, 0, 0)
        await until(lambda: (reader.stats, writer.stats) == expected, 1)


@direct_only
async def test_a_read_that_terminates_its_connection_is_sent_twice_only(route: Route) -> None:
    async with connected(route, read_only=True) as reader:
        with pytest.raises(ConnectionUnavailable) as error:
            await reader.fetch([], TERMINATE_SELF)
        assert not error.value.maybe_applied
        assert await reader.fetch([], "select 1") == [(b"1",)]


@direct_only
async def test_a_read_is_not_retried_on_a_connection_that_is_being_lost_too(
    route: Route, multiplexer_server: Server
) -> None:
    async with connected(route, read_only=True) as reader:
        sql = f"{BACKEND_PID} from pg_sleep(0.02)"
        concurrent = asyncio.create_task(reader.fetch([], sql))
        await asyncio.sleep(0.005)  # reads of one turn of the event loop share a connection
        rows = [await reader.fetch([], sql), await concurrent]
        second, first = (int(row[0][0] or 0) for row in rows)
        assert first != second
        os.kill(second, signal.SIGSTOP)
        try:
            read = asyncio.create_task(reader.fetch([], "select 1 from pg_sleep(0.2)"))
            await until(lambda: reader.stats.in_flight == 1)
            with psycopg.connect(multiplexer_server.url(), autocommit=True) as superuser:
                for pid in (second, first):
                    superuser.execute("select pg_terminate_backend(%s)", [pid])
            await until(lambda: read.done() or reader.stats.connections == 1)
            await until(read.done, 2)
        finally:
            os.kill(second, signal.SIGCONT)
        assert await read == [(b"1",)]


@direct_only
async def test_results_that_arrived_before_the_connection_was_lost_are_returned(
    route: Route,
) -> None:
    async with connected(route, connections=1) as multiplexer:
        statements = [*[f"select {n}" for n in range(20)], TERMINATE_SELF]
        outcomes = await asyncio.gather(*[outcome(multiplexer, [], sql) for sql in statements])
        assert outcomes == [*[[(b"%d" % n,)] for n in range(20)], ConnectionUnavailable]


@direct_only
async def test_reads_of_a_connection_that_stops_responding_are_retried(route: Route) -> None:
    async with connected(route, read_only=True, statement_timeout=0.2, timeout=0.3) as reader:
        pid = int((await reader.fetch([], BACKEND_PID))[0][0] or 0)
        os.kill(pid, signal.SIGSTOP)
        try:
            started = time.monotonic()
            reads = [reader.fetch([], "select 1") for _ in range(10)]
            assert await asyncio.gather(*reads) == [[(b"1",)]] * 10
            assert time.monotonic() - started < 4
        finally:
            os.kill(pid, signal.SIGCONT)


@direct_only
async def test_reconnecting_backs_off(route: Route) -> None:
    accepted_at: list[float] = []

    async def disconnect(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted_at.append(time.monotonic())
        writer.close()

    listener = await asyncio.start_server(disconnect, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    multiplexer = Multiplexer(
        f"host=127.0.0.1 port={port} user=app sslmode=disable gssencmode=disable",
        connections=1,
        read_only=True,
    )
    await multiplexer.open()
    try:
        await until(lambda: len(accepted_at) >= 10)
        pauses = [later - earlier for earlier, later in pairwise(accepted_at)]
        assert min(pauses[:3]) < 0.2
        assert max(pauses) < 2
        assert min(pauses[-4:]) > 0.2
    finally:
        await multiplexer.close(timeout=0.1)
        listener.close()
