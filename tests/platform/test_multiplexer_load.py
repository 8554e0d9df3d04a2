"""The multiplexer under load: slow statements, full queues, large results, prepared statements."""

import array
import asyncio
import fcntl
import os
import signal
import socket
import time
from dataclasses import replace

import psycopg
import pytest
from psycopg import errors
from psycopg.conninfo import make_conninfo

from db.connections import multiplexer as multiplexer_module
from db.connections import pipeline, wire
from db.connections.multiplexer import ConnectionStats, QueueFull
from db.connections.pipeline import QueueTimeout
from dev.local.embedded import Server
from tests.platform.fix_multiplexer import (
    BACKEND_PID,
    GET,
    ORG_IDS,
    Route,
    connected,
    direct_and_uvloop,
    direct_only,
    org,
    outcome,
    until,
)

pytestmark = pytest.mark.anyio

SIOCOUTQNSD = 0x894B  # ioctl of linux/sockios.h: bytes in the socket's buffer that are not sent yet


@pytest.fixture
def anyio_backend(route: Route) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": route.use_uvloop}


# Slow statements


@direct_and_uvloop
async def test_reads_behind_a_slow_one_are_moved_to_another_connection(route: Route) -> None:
    async with connected(route, read_only=True, statement_timeout=5) as reader:
        slow = asyncio.create_task(reader.fetch([], "select pg_sleep(2)"))
        await until(lambda: reader.stats.in_flight == 1)
        durations: list[float] = []

        async def read() -> None:
            while not slow.done():
                started = time.monotonic()
                assert await reader.fetch(org(0), GET, [ORG_IDS[0], "1"]) == [(b"1/1",)]
                durations.append(time.monotonic() - started)

        await asyncio.gather(*[read() for _ in range(16)])
        durations.sort()
        assert len(durations) > 200
        assert durations[len(durations) * 99 // 100] < 0.4
        assert durations[-1] < 1.5


@direct_only
async def test_nothing_is_sent_behind_a_slow_statement(route: Route) -> None:
    async with connected(route, timeout=5) as multiplexer:
        slow = [asyncio.create_task(multiplexer.fetch([], "select pg_sleep(1)"))]
        await until(lambda: multiplexer.stats.in_flight == 1)
        loop = asyncio.get_running_loop()
        slow_at = loop.time() + multiplexer_module.SLOW_STATEMENT_SECONDS
        await until(lambda: loop.time() > slow_at)
        for number in range(100):
            assert await multiplexer.fetch([], f"select {number}") == [(b"%d" % number,)]
        assert not slow[0].done()
        slow.append(asyncio.create_task(multiplexer.fetch([], "select pg_sleep(0.5)")))
        slow_at = loop.time() + multiplexer_module.SLOW_STATEMENT_SECONDS
        await until(lambda: loop.time() > slow_at)
        waiting = asyncio.create_task(multiplexer.fetch([], "select 1"))  # for the first free one
        await until(lambda: multiplexer.stats == ConnectionStats(2, 2, 1))
        assert await waiting == [(b"1",)]
        await asyncio.gather(*slow)


async def test_the_server_cancels_a_statement_at_its_timeout(route: Route) -> None:
    async with connected(route, connections=1, statement_timeout=0.1) as multiplexer:
        for _ in range(2):
            with pytest.raises(errors.QueryCanceled):
                await multiplexer.fetch([], "select pg_sleep(5)")
        longer = multiplexer.fetch([], "select 1 from pg_sleep(0.3)", statement_timeout=2)
        assert await longer == [(b"1",)]
        with pytest.raises(errors.QueryCanceled):
            await multiplexer.fetch([], "select pg_sleep(5)")


@direct_only
async def test_requests_behind_a_lock_do_not_wait_for_each_others_timeouts(
    route: Route, multiplexer_server: Server
) -> None:
    limits = {"max_queue_delay": 60, "statement_timeout": 0.4, "timeout": 0.4}
    async with connected(route, connections=1, **limits) as multiplexer:
        with psycopg.connect(multiplexer_server.url()) as superuser:
            superuser.execute("lock table marks")
            started = time.monotonic()
            sql = "insert into marks values ('locked')"
            outcomes = await asyncio.gather(*[outcome(multiplexer, [], sql) for _ in range(8)])
            assert set(outcomes) == {errors.QueryCanceled, QueueTimeout}
            assert time.monotonic() - started < 2.4  # one timeout each would be 3.2 s
        await until(lambda: multiplexer.stats == ConnectionStats(1, 0, 0))


# Many and large requests


@direct_only
async def test_fast_concurrent_reads_share_a_connection_and_slow_ones_do_not(
    route: Route, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multiplexer_module, "BATCH_SECONDS", 0.05)  # this machine may be busy
    async with connected(route, connections=4, read_only=True) as reader:

        async def backends(sql: str) -> set[bytes | None]:
            rows = await asyncio.gather(*[reader.fetch([], sql) for _ in range(4)])
            return {row[0][0] for row in rows}

        await asyncio.gather(*[reader.fetch([], BACKEND_PID) for _ in range(50)])
        assert len(await backends(BACKEND_PID)) == 1
        slow = f"{BACKEND_PID} from pg_sleep(0.1)"
        for _ in range(6):
            await backends(slow)
        assert len(await backends(slow)) == 4


@direct_only
async def test_data_is_held_back_for_one_turn_of_the_event_loop_only(route: Route) -> None:
    """More segments than the first congestion window, while the server does not read."""
    async with connected(route, connections=1, read_only=True, max_queue_delay=100) as reader:
        pid = int((await reader.fetch([], BACKEND_PID))[0][0] or 0)
        os.kill(pid, signal.SIGSTOP)
        try:
            reads = []
            for n in range(30):
                reads.append(asyncio.create_task(reader.fetch([], f"select {n}")))
                await asyncio.sleep(0)  # all are sent before the first one counts as slow
            [connection] = reader._connections
            unsent = array.array("i", [0])
            await asyncio.sleep(0.12)
            fcntl.ioctl(connection.fd, SIOCOUTQNSD, unsent)
            assert (len(connection.pending), unsent[0]) == (30, 0)
        finally:
            os.kill(pid, signal.SIGCONT)
        assert await asyncio.gather(*reads) == [[(b"%d" % n,)] for n in range(30)]


@direct_only
async def test_a_platform_without_tcp_cork_is_supported(
    route: Route, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(socket, "TCP_CORK")
    async with connected(route, read_only=True) as reader:
        rows = await asyncio.gather(*[reader.fetch([], f"select {n}") for n in range(100)])
        assert rows == [[(b"%d" % n,)] for n in range(100)]


async def test_a_request_is_rejected_when_the_queue_is_full_or_its_wait_too_long(
    route: Route,
) -> None:
    limits = {"max_depth": 2, "max_waiting": 3, "timeout": 0.3, "statement_timeout": 5}
    async with connected(route, connections=1, **limits) as multiplexer:
        in_flight = 2 if route.use_names else 1
        sql = "select pg_sleep(1.5)"
        slow = [asyncio.create_task(multiplexer.fetch([], sql)) for _ in range(in_flight)]
        await until(lambda: multiplexer.stats.in_flight == in_flight)
        waiting = [asyncio.create_task(outcome(multiplexer, [], "select 1")) for _ in range(3)]
        await until(lambda: multiplexer.stats == ConnectionStats(1, in_flight, 3))
        with pytest.raises(QueueFull):
            await multiplexer.fetch([], "select 1")
        assert multiplexer.stats == ConnectionStats(1, in_flight, 3)
        waiting[0].cancel()
        await until(lambda: multiplexer.stats == ConnectionStats(1, in_flight, 2))
        replacement = asyncio.create_task(outcome(multiplexer, [], "select 1"))
        assert await asyncio.gather(*waiting[1:], replacement) == [QueueFull] * 3
        assert not any(task.done() for task in slow)
        await asyncio.gather(*slow)
        assert await multiplexer.fetch([], "select 1") == [(b"1",)]


async def test_large_results_and_parameters_share_connections_with_small_ones(
    route: Route,
) -> None:
    text = "x" * 1_000_000
    async with connected(route, statement_timeout=20, timeout=20) as multiplexer:
        large_value = multiplexer.fetch([], "select repeat('y', 50000000)")
        many_rows = multiplexer.fetch([], "select n, 'z' from generate_series(1, 200000) n")
        echoes = [multiplexer.fetch([], "select $1", [text]) for _ in range(40)]
        small = [multiplexer.fetch([], f"select {n}") for n in range(100)]
        results = await asyncio.gather(large_value, many_rows, *echoes, *small)
        assert len(results[0][0][0] or b"") == 50_000_000
        assert len(results[1]) == 200_000
        assert results[1][-1] == (b"200000", b"z")
        assert results[2:42] == [[(text.encode(),)]] * 40
        assert results[42:] == [[(b"%d" % n,)] for n in range(100)]


# Prepared statements


async def test_prepared_statements_have_a_generic_plan(route: Route) -> None:
    """A pooler rejects options; those of the connection string are kept."""
    with_options = make_conninfo(route.conninfo, options="-c work_mem=5MB")
    if route.use_names:
        route = replace(route, conninfo=with_options)
    async with connected(route, read_only=True) as reader:
        [[mode, memory]] = await reader.fetch(
            [], "select current_setting('plan_cache_mode'), current_setting('work_mem')"
        )
        expected = (b"force_generic_plan", b"5MB") if route.use_names else (b"auto", b"4MB")
        assert (mode, memory) == expected


@direct_only
async def test_the_least_recently_used_prepared_statement_is_closed(route: Route) -> None:
    async with connected(route, connections=1) as multiplexer:
        for _ in range(2):
            for number in range(pipeline.MAX_PREPARED + 20):
                assert await multiplexer.fetch([], f"select {number}") == [(b"%d" % number,)]
                await multiplexer.fetch([], "select 'often'")
        count = await multiplexer.fetch([], "select count(*) from pg_prepared_statements")
        assert count == [(b"%d" % pipeline.MAX_PREPARED,)]
        query = (
            "select statement from pg_prepared_statements where generic_plans > 10 "
            f"or statement in ('select {number}', 'select 20') order by 1"
        )
        prepared = await multiplexer.fetch([], query)
        assert (b"select 'often'",) in prepared
        assert (b"select %d" % number,) in prepared
        assert (b"select 20",) not in prepared


@direct_only
async def test_a_changed_result_type_is_prepared_again(
    route: Route, multiplexer_server: Server
) -> None:
    """As after a migration."""
    async with connected(route, connections=1, max_queue_delay=60) as multiplexer:
        assert await multiplexer.fetch([], "select * from shape") == [(b"1",)]
        with psycopg.connect(multiplexer_server.url(), autocommit=True) as superuser:
            superuser.execute("alter table shape add extra text default 'new'")
        requests = [multiplexer.fetch([], "select * from shape") for _ in range(20)]
        assert await asyncio.gather(*requests) == [[(b"1", b"new")]] * 20
        for _ in range(2):
            assert await multiplexer.fetch([], "select * from shape") == [(b"1", b"new")]
        plans = (
            "select generic_plans + custom_plans from pg_prepared_statements "
            "where statement = 'select * from shape'"
        )
        assert await multiplexer.fetch([], plans) == [(b"2",)]
        with pytest.raises(errors.FeatureNotSupported):  # the same SQLSTATE, raised by a function
            await multiplexer.fetch([], "select unsupported()")


@direct_only
async def test_statements_that_the_server_deallocated_are_prepared_again(
    route: Route, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connected(route, connections=1) as multiplexer:
        await multiplexer.fetch([], "delete from marks")
        for expected in (b"1", b"2", b"3"):
            assert await multiplexer.fetch([], "select $1", ["1"]) == [(b"1",)]
            write = "insert into marks values ('again') returning (select count(*) + 1 from marks)"
            assert await multiplexer.fetch([], write) == [(expected,)]
            with monkeypatch.context() as patch:
                patch.setattr(wire, "_statement", str.encode)
                await multiplexer.fetch([], "deallocate all")
        await multiplexer.fetch([], "delete from marks")
