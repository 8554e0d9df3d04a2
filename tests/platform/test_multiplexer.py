"""The multiplexer on a real PostgreSQL, direct and through a PgBouncer with one connection."""

import array
import asyncio
import fcntl
import gc
import os
import random
import signal
import socket
import subprocess
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import errors
from psycopg.conninfo import make_conninfo

from db.connections import multiplexer, pipeline, wire
from db.connections.multiplexer import ConnectionStats, Multiplexer, QueueFull
from db.connections.pipeline import ConnectionUnavailable, QueueTimeout
from dev.local.embedded import Server, running
from tests.platform.fix_tools import tool

pytestmark = pytest.mark.anyio

Row = tuple[bytes | None, ...]

PASSWORD = "only-here"
ORGS = [str(uuid.UUID(int=n)) for n in range(1, 21)]
GET = "select name from projects where org_id = $1 and id = $2"
INSERT = "insert into projects values ($1, $2, $3) returning id"
SETTING = "select current_setting('app.org_id', true)"
PID = "select pg_backend_pid()"
SIOCOUTQNSD = 0x894B  # linux/sockios.h: bytes of a socket that are not sent yet
SCHEMA = f"""
create role app login password '{PASSWORD}';
create table projects (org_id uuid, id int, name text not null, primary key (org_id, id));
alter table projects enable row level security;
alter table projects force row level security;
create policy tenant_isolation on projects
    using      (org_id = (select nullif(current_setting('app.org_id', true), '')::uuid))
    with check (org_id = (select nullif(current_setting('app.org_id', true), '')::uuid));
insert into projects select ('00000000-0000-0000-0000-' || lpad(to_hex(o), 12, '0'))::uuid, n,
    o || '/' || n from generate_series(1, 20) o, generate_series(1, 50) n;
create table marks (mark text);
create table late (id int unique deferrable initially deferred);
create table shape (id int);
insert into shape values (1);
create function noisy() returns int language plpgsql as $$ begin
    raise notice 'first'; raise warning 'second';
    perform set_config('application_name', clock_timestamp()::text, true); return 1; end $$;
create function unsupported() returns int language plpgsql as $$ begin
    raise exception using errcode = '0A000'; end $$;
create function writes() returns int language sql as 'insert into marks values (1); select 1';
grant select, insert, update, delete on all tables in schema public to app;
"""


@dataclass(frozen=True)
class Way:
    conninfo: str
    prepare: bool = True
    uvloop: bool = False


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("server"), fsync=False) as server:
        with psycopg.connect(server.url(), autocommit=True) as admin:
            admin.execute(SCHEMA)
        yield server


@contextmanager
def pgbouncer(server: Server, folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    target = f"host={server.host} port={server.port} dbname=postgres user=app password={PASSWORD}"
    config = folder / "pgbouncer.ini"
    config.write_text(
        f"[databases]\napp = {target}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n"
        "auth_type = any\npool_mode = transaction\ndefault_pool_size = 1\nunix_socket_dir =\n"
        f"server_login_retry = 0\n{'user = nobody' if os.geteuid() == 0 else ''}\n"
    )
    program = tool("pgbouncer")
    with open(folder / "log", "ab") as log:
        child = subprocess.Popen([program, config], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 5
        while not accepts(port):
            assert time.monotonic() < deadline, (folder / "log").read_text()
        yield child
    finally:
        child.kill()
        child.wait()


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def pooler(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    with pgbouncer(server, tmp_path_factory.mktemp("pgbouncer"), port):
        yield f"host=127.0.0.1 port={port} dbname=app user=app"


@pytest.fixture(params=["direct", "uvloop", "pooled"])
def way(request: pytest.FixtureRequest, server: Server) -> Way:
    if request.param == "pooled":
        return Way(request.getfixturevalue("pooler"), prepare=False)
    return Way(server.url("app", PASSWORD), uvloop=request.param == "uvloop")


direct = pytest.mark.parametrize("way", ["direct"], indirect=True)
direct_and_uvloop = pytest.mark.parametrize("way", ["direct", "uvloop"], indirect=True)


@pytest.fixture
def anyio_backend(way: Way) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": way.uvloop}


@asynccontextmanager
async def opened(
    way: Way, *, read_only: bool = False, connections: int = 2, **options: Any
) -> AsyncIterator[Multiplexer]:
    driver = Multiplexer(
        way.conninfo,
        prepare=way.prepare,
        read_only=read_only,
        connections=connections,
        **options,
    )
    await driver.open()
    try:
        await until(lambda: driver.stats.connections == connections)
        yield driver
    finally:
        await driver.close(timeout=1)


async def until(condition: Callable[[], bool], deadline: float = 10) -> None:
    end = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < end, "the deadline is over"
        await asyncio.sleep(0.005)


def org(number: int) -> list[tuple[str, str]]:
    return [("app.org_id", ORGS[number])]


async def outcome(
    driver: Multiplexer,
    settings: list[tuple[str, str]],
    sql: str,
    parameters: Sequence[str] = (),
    **options: float,
) -> list[Row] | type[BaseException]:
    try:
        return await driver.fetch(settings, sql, parameters, **options)
    except (psycopg.Error, QueueFull, ConnectionUnavailable, asyncio.CancelledError) as error:
        return type(error)


# Tenants


async def test_a_setting_ends_with_its_request(way: Way) -> None:
    async with opened(way, connections=1) as driver:
        for number in range(200):
            bound = await driver.fetch(org(number % 20), SETTING)
            assert bound == [(ORGS[number % 20].encode(),)]
            assert (await driver.fetch([], SETTING))[0][0] in (None, b"")
            with pytest.raises(errors.DivisionByZero):
                await driver.fetch(org(number % 20), "select 1/0")
            assert (await driver.fetch([], SETTING))[0][0] in (None, b"")


async def test_several_settings_are_bound_as_values_never_as_sql(way: Way) -> None:
    evil = "x', false), set_config('app.org_id', 'y"
    async with opened(way) as driver:
        settings = [("app.subject", evil), ("app.org_id", "")]
        both = "select current_setting('app.subject'), current_setting('app.org_id')"
        assert await driver.fetch(settings, both) == [(evil.encode(), b"")]


async def test_interleaved_tenants_never_see_each_other(way: Way) -> None:
    chance, seen = random.Random(1), Counter[str]()
    inserted: set[tuple[int, int]] = set()

    async def one(reader: Multiplexer, writer: Multiplexer, number: int) -> None:
        mine, other = chance.sample(range(20), 2)
        key, kind = chance.randint(1, 50), chance.random()
        driver = reader if chance.random() < 0.7 else writer
        expected: list[Row] | type[BaseException]
        arguments: tuple[str, ...] = (ORGS[mine], str(key))
        if kind < 0.01:
            name, sql, arguments, expected = "1/0", "select 1/0", (), errors.DivisionByZero
        elif kind < 0.02:
            driver, name, sql, arguments = writer, "unique", INSERT, (*arguments, "again")
            expected = errors.UniqueViolation
        elif kind < 0.03:
            name, sql, arguments = "bad uuid", GET, ("no-uuid", str(key))
            expected = errors.InvalidTextRepresentation
        elif kind < 0.05:
            driver, name, sql, arguments = writer, "foreign", INSERT, (ORGS[other], "99", "x")
            expected = errors.InsufficientPrivilege
        elif kind < 0.1:
            driver, name, sql = writer, "insert", INSERT
            arguments, expected = (
                (ORGS[mine], str(1000 + number), "new"),
                [(b"%d" % (1000 + number),)],
            )
        elif kind < 0.25:
            name, sql, arguments, expected = "probe", GET, (ORGS[other], str(key)), []
        elif kind < 0.4:
            name, sql, arguments = "all", "select distinct org_id from projects", ()
            expected = [(ORGS[mine].encode(),)]
        else:
            name, sql, expected = "own", GET, [(f"{mine + 1}/{key}".encode(),)]
        task = asyncio.create_task(outcome(driver, org(mine), sql, arguments))
        cancelled = chance.random() < 0.03
        if cancelled:
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)
            task.cancel()
        try:
            got = await task
        except asyncio.CancelledError:
            got = asyncio.CancelledError
        seen["cancelled" if got is asyncio.CancelledError else name] += 1
        assert got == expected or (cancelled and got is asyncio.CancelledError), (name, got)
        if name == "insert" and got == expected:
            inserted.add((mine, 1000 + number))

    async with (
        opened(way, read_only=True, connections=3) as reader,
        opened(way, connections=3) as writer,
    ):
        await writer.fetch([], SETTING)
        numbers = iter(range(20_000 if way.prepare and not way.uvloop else 5_000))

        async def worker() -> None:
            for number in numbers:
                await one(reader, writer, number)

        await asyncio.gather(*[worker() for _ in range(48)])
        await until(lambda: reader.stats == writer.stats == ConnectionStats(3, 0, 0))
        for mine in range(20):
            rows = await writer.fetch(
                org(mine),
                "with gone as (delete from projects where id >= 1000 returning id) "
                "select id, count(*) over () from gone",
            )
            stored = {(mine, int(row[0] or 0)) for row in rows}
            assert stored >= {pair for pair in inserted if pair[0] == mine}
    assert len(seen) == 9
    assert min(seen.values()) > 20, seen


# Errors and cancellation


async def test_an_error_affects_only_its_own_request(way: Way) -> None:
    async with opened(way, connections=1) as driver:
        before = await driver.fetch([], PID)
        requests = [
            outcome(driver, [], "select 10 / $1::int", [str(number % 3)]) for number in range(60)
        ]
        answers = await asyncio.gather(*requests)
        good = {1: [(b"10",)], 2: [(b"5",)]}
        assert answers == [good.get(n % 3, errors.DivisionByZero) for n in range(60)]
        assert await driver.fetch([], PID) == before


async def test_errors_are_typed_and_carry_their_details(way: Way) -> None:
    async with opened(way) as driver:
        with pytest.raises(errors.UniqueViolation) as caught:
            await driver.fetch(org(0), INSERT, [ORGS[0], "1", "x"])
        assert caught.value.diag.constraint_name == "projects_pkey"
        with pytest.raises(errors.SyntaxError):
            await driver.fetch([], "select 1; select 2")
        missing = [outcome(driver, [], "select * from missing") for _ in range(40)]
        assert set(await asyncio.gather(*missing)) == {errors.UndefinedTable}


async def test_a_commit_that_fails_is_an_error(way: Way) -> None:
    async with opened(way) as driver:
        with pytest.raises(errors.UniqueViolation):
            await driver.fetch([], "insert into late values (1), (1) returning id")
        assert await driver.fetch([], "select * from late") == []


async def test_a_cancelled_request_leaves_its_connection_and_neighbours_alone(way: Way) -> None:
    sent = ConnectionStats(1, 21, 0) if way.prepare else ConnectionStats(1, 1, 20)
    left = ConnectionStats(1, 21, 0) if way.prepare else ConnectionStats(1, 1, 10)
    async with opened(way, connections=1, ahead=60) as driver:
        before = await driver.fetch([], PID)
        slow = asyncio.create_task(driver.fetch([], "select pg_sleep(0.5)"))
        await until(lambda: driver.stats.in_flight == 1)
        beside = [asyncio.create_task(driver.fetch([], f"select {n}")) for n in range(20)]
        await until(lambda: driver.stats == sent)
        for task in (slow, *beside[::2]):
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await slow
        assert driver.stats == left
        assert await asyncio.gather(*beside[1::2]) == [[(b"%d" % n,)] for n in range(1, 20, 2)]
        await until(lambda: driver.stats == ConnectionStats(1, 0, 0))
        assert await driver.fetch([], PID) == before


@pytest.mark.parametrize("text", ["a\0b", "\ud800"])
async def test_text_that_postgresql_cannot_hold_is_refused_before_it_is_sent(
    way: Way, text: str
) -> None:
    async with opened(way, connections=1) as driver:
        before = await driver.fetch([], PID)
        for settings, sql, parameters in (
            ([], "select $1", [text]),
            ([("app.org_id", text)], "select 1", []),
            ([], f"select '{text}'", []),
        ):
            with pytest.raises(psycopg.DataError):
                await driver.fetch(settings, sql, parameters)
        assert driver.stats == ConnectionStats(1, 0, 0)
        assert await driver.fetch([], "select $1, $2", ["ü", None]) == [("ü".encode(), None)]
        assert await driver.fetch([], PID) == before


@direct
async def test_text_is_utf_8_whatever_the_environment_says(
    way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", "latin1")
    async with opened(way) as driver:
        assert await driver.fetch([], "select $1, length($1)", ["€"]) == [("€".encode(), b"1")]


OUTLASTING = (
    "begin", "commit", "set app.org_id = 'x'", "listen x", "copy marks from stdin",
    "copy marks to stdout", "prepare transaction 'x'", "declare c cursor with hold for select 1",
    "discard all", "do 'begin end'", "call x()", "-- select\nbegin", "",
)  # fmt: skip


async def test_sql_that_would_outlast_its_transaction_is_refused(way: Way) -> None:
    async with opened(way, connections=1) as driver:
        before = await driver.fetch([], PID)
        for sql in OUTLASTING:
            with pytest.raises(psycopg.NotSupportedError):
                await driver.fetch([], sql)
        assert await driver.fetch([], " (\n SELECT 1)") == [(b"1",)]
        assert await driver.fetch([], PID) == before


@pytest.mark.parametrize("sql", ["copy marks from stdin", "copy marks to stdout"])
async def test_a_copy_past_that_guard_does_not_wedge_the_connection(
    way: Way, sql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(way, connections=1) as driver:
        monkeypatch.setattr(wire, "_statement", str.encode)
        requests = [outcome(driver, [], sql) for sql in ("select 1", sql, "select 2", "select 3")]
        answers = await asyncio.gather(*requests)
        assert answers[0] == [(b"1",)]
        assert answers[1] is ConnectionUnavailable
        assert await driver.fetch([], "select 4") == [(b"4",)]


# Slow, many, large


@direct_and_uvloop
async def test_reads_behind_a_slow_one_are_answered_by_another_connection(way: Way) -> None:
    async with opened(way, read_only=True, statement_timeout=5) as driver:
        slow = asyncio.create_task(driver.fetch([], "select pg_sleep(2)"))
        await until(lambda: driver.stats.in_flight == 1)
        took: list[float] = []

        async def worker() -> None:
            while not slow.done():
                began = time.monotonic()
                assert await driver.fetch(org(0), GET, [ORGS[0], "1"]) == [(b"1/1",)]
                took.append(time.monotonic() - began)

        await asyncio.gather(*[worker() for _ in range(16)])
        took.sort()
        assert len(took) > 200
        assert took[len(took) * 99 // 100] < 0.4
        assert took[-1] < 1.5


@direct
async def test_quick_reads_of_one_turn_share_a_connection_and_slow_ones_do_not(
    way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multiplexer, "BATCH_SECONDS", 0.05)  # this machine may be busy
    async with opened(way, connections=4, read_only=True) as reader:
        await asyncio.gather(*[reader.fetch([], PID) for _ in range(50)])
        together = await asyncio.gather(*[reader.fetch([], PID) for _ in range(4)])
        assert len({rows[0][0] for rows in together}) == 1
        slow = f"{PID} from pg_sleep(0.1)"
        for _ in range(6):
            await asyncio.gather(*[reader.fetch([], slow) for _ in range(4)])
        apart = await asyncio.gather(*[reader.fetch([], slow) for _ in range(4)])
        assert len({rows[0][0] for rows in apart}) == 4


async def test_plans_are_made_once_where_statements_are_prepared(way: Way) -> None:
    """A pooler refuses options; one that was given in the address stays."""
    given = replace(way, conninfo=make_conninfo(way.conninfo, options="-c work_mem=5MB"))
    async with opened(given if way.prepare else way, read_only=True) as reader:
        [[mode, memory]] = await reader.fetch(
            [], "select current_setting('plan_cache_mode'), current_setting('work_mem')"
        )
        expected = (b"force_generic_plan", b"5MB") if way.prepare else (b"auto", b"4MB")
        assert (mode, memory) == expected


@direct
async def test_nothing_is_held_back_longer_than_a_turn(way: Way) -> None:
    """More segments than the first congestion window has, while the server reads nothing."""
    async with opened(way, connections=1, read_only=True, ahead=100) as reader:
        pid = int((await reader.fetch([], PID))[0][0] or 0)
        os.kill(pid, signal.SIGSTOP)
        try:
            reads = []
            for n in range(30):
                reads.append(asyncio.create_task(reader.fetch([], f"select {n}")))
                await asyncio.sleep(0)  # all before the first is old enough to be waited for
            [link] = reader._links
            unsent = array.array("i", [0])
            await asyncio.sleep(0.12)
            fcntl.ioctl(link.fd, SIOCOUTQNSD, unsent)
            assert (len(link.flights), unsent[0]) == (30, 0)
        finally:
            os.kill(pid, signal.SIGCONT)
        assert await asyncio.gather(*reads) == [[(b"%d" % n,)] for n in range(30)]


@direct
async def test_a_socket_that_cannot_be_corked_serves_all_the_same(
    way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(socket, "TCP_CORK")
    async with opened(way, read_only=True) as reader:
        answers = await asyncio.gather(*[reader.fetch([], f"select {n}") for n in range(100)])
        assert answers == [[(b"%d" % n,)] for n in range(100)]


@direct
async def test_nothing_is_sent_behind_a_statement_that_has_been_running(way: Way) -> None:
    async with opened(way, timeout=5) as driver:
        slow = [asyncio.create_task(driver.fetch([], "select pg_sleep(1)"))]
        await until(lambda: driver.stats.in_flight == 1)
        loop = asyncio.get_running_loop()
        blocked_at = loop.time() + multiplexer.SLOW_STATEMENT_SECONDS
        await until(lambda: loop.time() > blocked_at)
        for number in range(100):
            assert await driver.fetch([], f"select {number}") == [(b"%d" % number,)]
        assert not slow[0].done()
        slow.append(asyncio.create_task(driver.fetch([], "select pg_sleep(0.5)")))
        blocked_at = loop.time() + multiplexer.SLOW_STATEMENT_SECONDS
        await until(lambda: loop.time() > blocked_at)
        late = asyncio.create_task(driver.fetch([], "select 1"))  # late, but to the first free one
        await until(lambda: driver.stats == ConnectionStats(2, 2, 1))
        assert await late == [(b"1",)]
        await asyncio.gather(*slow)


async def test_the_server_ends_a_statement_at_its_time_limit(way: Way) -> None:
    async with opened(way, connections=1, statement_timeout=0.1) as driver:
        for _ in range(2):
            with pytest.raises(errors.QueryCanceled):
                await driver.fetch([], "select pg_sleep(5)")
        longer = driver.fetch([], "select 1 from pg_sleep(0.3)", statement_timeout=2)
        assert await longer == [(b"1",)]
        with pytest.raises(errors.QueryCanceled):
            await driver.fetch([], "select pg_sleep(5)")


async def test_more_than_fits_is_refused_at_once_and_waiting_ends_in_time(way: Way) -> None:
    limits = {"waiting": 3, "timeout": 0.3, "statement_timeout": 5}
    async with opened(way, connections=1, depth=2, **limits) as driver:
        sent = 2 if way.prepare else 1
        sql = "select pg_sleep(1.5)"
        flying = [asyncio.create_task(driver.fetch([], sql)) for _ in range(sent)]
        await until(lambda: driver.stats.in_flight == sent)
        waiting = [asyncio.create_task(outcome(driver, [], "select 1")) for _ in range(3)]
        await until(lambda: driver.stats == ConnectionStats(1, sent, 3))
        with pytest.raises(QueueFull):
            await driver.fetch([], "select 1")
        assert driver.stats == ConnectionStats(1, sent, 3)
        waiting[0].cancel()
        await until(lambda: driver.stats == ConnectionStats(1, sent, 2))
        fits = asyncio.create_task(outcome(driver, [], "select 1"))
        assert await asyncio.gather(*waiting[1:], fits) == [QueueFull] * 3
        assert not any(task.done() for task in flying)
        await asyncio.gather(*flying)
        assert await driver.fetch([], "select 1") == [(b"1",)]


@direct
async def test_behind_a_lock_none_waits_for_the_limits_of_the_others(
    way: Way, server: Server
) -> None:
    async with opened(way, connections=1, ahead=60, statement_timeout=0.4, timeout=0.4) as driver:
        with psycopg.connect(server.url()) as holder:
            holder.execute("lock table marks")
            began = time.monotonic()
            sql = "insert into marks values ('locked')"
            answers = await asyncio.gather(*[outcome(driver, [], sql) for _ in range(8)])
            assert set(answers) == {errors.QueryCanceled, QueueTimeout}
            assert time.monotonic() - began < 2.4  # one limit each would be 3.2 s
        await until(lambda: driver.stats == ConnectionStats(1, 0, 0))


async def test_large_results_and_parameters_pass_beside_small_ones(way: Way) -> None:
    text = "x" * 1_000_000
    async with opened(way, statement_timeout=20, timeout=20) as driver:
        column = driver.fetch([], "select repeat('y', 50000000)")
        rows = driver.fetch([], "select n, 'z' from generate_series(1, 200000) n")
        echoes = [driver.fetch([], "select $1", [text]) for _ in range(40)]
        small = [driver.fetch([], f"select {n}") for n in range(100)]
        answers = await asyncio.gather(column, rows, *echoes, *small)
        assert len(answers[0][0][0] or b"") == 50_000_000
        assert len(answers[1]) == 200_000
        assert answers[1][-1] == (b"200000", b"z")
        assert answers[2:42] == [[(text.encode(),)]] * 40
        assert answers[42:] == [[(b"%d" % n,)] for n in range(100)]


async def test_notices_and_parameter_changes_are_harmless(way: Way) -> None:
    async with opened(way, connections=1) as driver:
        for _ in range(20):  # how many may wait follows from how long the first ones took
            before = await driver.fetch([], PID)
        requests = [driver.fetch(org(n % 20), "select noisy(), " + SETTING[7:]) for n in range(100)]
        answers = await asyncio.gather(*requests)
        assert answers == [[(b"1", ORGS[n % 20].encode())] for n in range(100)]
        assert await driver.fetch([], PID) == before


async def test_a_read_only_driver_cannot_write(way: Way) -> None:
    unlocked = "with x as (select set_config('transaction_read_only', 'off', true)) select writes()"
    async with opened(way, read_only=True) as reader, opened(way) as writer:
        for sql in ("insert into marks values (1)", "select writes()", "delete from marks"):
            with pytest.raises(errors.ReadOnlySqlTransaction):
                await reader.fetch([], sql)
            await writer.fetch([], sql)
        with pytest.raises(psycopg.Error):
            await reader.fetch([], unlocked + " from x")


# Prepared statements


@direct
async def test_prepared_statements_are_bounded_and_more_sql_still_runs(way: Way) -> None:
    async with opened(way, connections=1) as driver:
        for _ in range(2):
            for number in range(pipeline.MAX_PREPARED + 20):
                assert await driver.fetch([], f"select {number}") == [(b"%d" % number,)]
                await driver.fetch([], "select 'often'")
        count = await driver.fetch([], "select count(*) from pg_prepared_statements")
        assert count == [(b"%d" % pipeline.MAX_PREPARED,)]
        kept = (
            "select statement from pg_prepared_statements where generic_plans > 10 "
            f"or statement in ('select {number}', 'select 20') order by 1"
        )
        assert (b"select 'often'",) in (statements := await driver.fetch([], kept))
        assert (b"select %d" % number,) in statements
        assert (b"select 20",) not in statements


@direct
async def test_a_migration_under_prepared_statements_goes_unnoticed(
    way: Way, server: Server
) -> None:
    async with opened(way, connections=1, ahead=60) as driver:
        assert await driver.fetch([], "select * from shape") == [(b"1",)]
        with psycopg.connect(server.url(), autocommit=True) as admin:
            admin.execute("alter table shape add extra text default 'new'")
        requests = [driver.fetch([], "select * from shape") for _ in range(20)]
        assert await asyncio.gather(*requests) == [[(b"1", b"new")]] * 20
        for _ in range(2):
            assert await driver.fetch([], "select * from shape") == [(b"1", b"new")]
        planned = (
            "select generic_plans + custom_plans from pg_prepared_statements "
            "where statement = 'select * from shape'"
        )
        assert await driver.fetch([], planned) == [(b"2",)]
        with pytest.raises(errors.FeatureNotSupported):
            await driver.fetch([], "select unsupported()")


@direct
async def test_statements_that_the_server_forgot_are_prepared_again(
    way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(way, connections=1) as driver:
        for expected in (b"1", b"2", b"3"):
            assert await driver.fetch([], "select $1", ["1"]) == [(b"1",)]
            write = "insert into marks values ('forgot') returning (select count(*) + 1 from marks)"
            assert await driver.fetch([], write) == [(expected,)]
            with monkeypatch.context() as patch:
                patch.setattr(wire, "_statement", str.encode)
                await driver.fetch([], "deallocate all")
        await driver.fetch([], "delete from marks")


# Close


async def test_close_finishes_what_was_accepted(way: Way) -> None:
    async with opened(way, connections=1, depth=2) as driver:
        sql = "insert into marks select 'closing' from pg_sleep(0.05) returning mark"
        tasks = [asyncio.create_task(driver.fetch([], sql)) for _ in range(4)]
        sent = 2 if way.prepare else 1
        await until(lambda: driver.stats == ConnectionStats(1, sent, 4 - sent))
        closing = asyncio.create_task(driver.close())
        await until(lambda: driver._closing)
        with pytest.raises(ConnectionUnavailable):
            await driver.fetch([], "select 1")
        await closing
        assert await asyncio.gather(*tasks) == [[(b"closing",)]] * 4
        assert not driver.connected
    async with opened(way) as driver:
        gone = await driver.fetch([], "delete from marks where mark = 'closing' returning 1")
        assert gone == [(b"1",)] * 4


async def test_close_cancels_what_runs_past_its_deadline(way: Way, server: Server) -> None:
    async with opened(way, connections=1, statement_timeout=60) as driver:
        sql = "select 'past the deadline', pg_sleep(60)"
        running_on = asyncio.create_task(driver.fetch([], sql))
        await until(lambda: driver.stats.in_flight == 1)
        began = time.monotonic()
        await driver.close(timeout=0.1)
        with pytest.raises((ConnectionUnavailable, errors.QueryCanceled)):
            await running_on
        assert time.monotonic() - began < 5
    with psycopg.connect(server.url(), autocommit=True) as admin:
        active = f"select from pg_stat_activity where state = 'active' and query = $${sql}$$"
        await until(lambda: not admin.execute(active).fetchall())


@direct
async def test_close_ends_a_connection_that_is_being_made(way: Way) -> None:
    """PostgreSQL would keep its place for a minute, and no database could be dropped meanwhile."""
    ended = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reached.set()
        await reader.read()
        writer.close()
        ended.set()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as listener:
        reached, port = asyncio.Event(), listener.sockets[0].getsockname()[1]
        driver = Multiplexer(f"host=127.0.0.1 port={port}", connections=1, read_only=True)
        await driver.open()
        await reached.wait()
        gc.disable()
        try:
            await driver.close()
            await asyncio.wait_for(ended.wait(), 2)
        finally:
            gc.enable()


# Connections that end


@direct_and_uvloop
async def test_a_killed_backend_costs_one_retry_and_a_write_says_so(
    way: Way, server: Server
) -> None:
    async with opened(way, read_only=True) as reader, opened(way, connections=1) as writer:
        reads = [
            asyncio.create_task(reader.fetch([], f"select {n} from pg_sleep(0.2)"))
            for n in range(10)
        ]
        write = asyncio.create_task(
            writer.fetch(
                [], "insert into marks select 'lost' from pg_sleep(5)", statement_timeout=9
            )
        )
        await until(lambda: writer.stats.in_flight == 1 and reader.stats.in_flight == 10)
        with psycopg.connect(server.url(), autocommit=True) as admin:
            admin.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'app'"
            )
        with pytest.raises(ConnectionUnavailable) as caught:
            await write
        assert caught.value.maybe_done
        assert "administrator command" in str(caught.value)
        assert await asyncio.gather(*reads) == [[(b"%d" % n,)] for n in range(10)]
        await until(
            lambda: (
                reader.stats == ConnectionStats(2, 0, 0)
                and writer.stats == ConnectionStats(1, 0, 0)
            ),
            1,
        )


@direct
async def test_a_read_that_ends_its_connection_is_sent_only_twice(way: Way) -> None:
    async with opened(way, read_only=True) as reader:
        with pytest.raises(ConnectionUnavailable) as caught:
            await reader.fetch([], "select pg_terminate_backend(pg_backend_pid())")
        assert not caught.value.maybe_done
        assert await reader.fetch([], "select 1") == [(b"1",)]


@direct
async def test_a_read_is_not_sent_again_to_a_connection_that_is_ending_too(
    way: Way, server: Server
) -> None:
    async with opened(way, read_only=True) as reader:
        sql = "select pg_backend_pid() from pg_sleep(0.02)"
        one = asyncio.create_task(reader.fetch([], sql))
        await asyncio.sleep(0.005)  # reads of one turn of the event loop share a connection
        pids = [await reader.fetch([], sql), await one]
        second, first = (int(rows[0][0] or 0) for rows in pids)
        assert first != second
        os.kill(second, signal.SIGSTOP)
        try:
            read = asyncio.create_task(reader.fetch([], "select 1 from pg_sleep(0.2)"))
            await until(lambda: reader.stats.in_flight == 1)
            with psycopg.connect(server.url(), autocommit=True) as admin:
                for pid in (second, first):
                    admin.execute("select pg_terminate_backend(%s)", [pid])
            await until(lambda: read.done() or reader.stats.connections == 1)
            await until(read.done, 2)
        finally:
            os.kill(second, signal.SIGCONT)
        assert await read == [(b"1",)]


@direct
async def test_answers_that_came_before_the_end_still_count(way: Way) -> None:
    async with opened(way, connections=1) as driver:
        sqls = [f"select {n}" for n in range(20)] + [
            "select pg_terminate_backend(pg_backend_pid())"
        ]
        answers = await asyncio.gather(*[outcome(driver, [], sql) for sql in sqls])
        assert answers == [*[[(b"%d" % n,)] for n in range(20)], ConnectionUnavailable]


@direct
async def test_a_silent_connection_is_given_up(way: Way) -> None:
    async with opened(way, read_only=True, statement_timeout=0.2, timeout=0.3) as reader:
        pid = int((await reader.fetch([], PID))[0][0] or 0)
        os.kill(pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            reads = [reader.fetch([], "select 1") for _ in range(10)]
            assert await asyncio.gather(*reads) == [[(b"1",)]] * 10
            assert time.monotonic() - began < 4
        finally:
            os.kill(pid, signal.SIGCONT)


class Restarting:
    """Owns a server that goes and comes back; libpq learns its port from a service file."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder / "service"
        self.thread = ThreadPoolExecutor(1)  # Linux ends the server with the thread that began it
        self.server: AbstractContextManager[Server] | None = None

    async def start(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self.thread, self._start)

    async def stop(self, number: int = signal.SIGINT) -> None:
        pid = int((self.folder / "data" / "postmaster.pid").read_text().split()[0])
        os.kill(pid, number)
        await asyncio.get_running_loop().run_in_executor(self.thread, self._stop)

    def _start(self) -> None:
        self.server = running(self.folder, fsync=False)
        server = self.server.__enter__()
        new = self.file.with_suffix(".new")
        new.write_text(
            f"[s]\nhost={server.host}\nport={server.port}\nuser=postgres\n"
            f"password={server.password}\ndbname=postgres\n"
        )
        new.rename(self.file)

    def _stop(self) -> None:
        if self.server:
            self.server.__exit__(None, None, None)
        self.server = None

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self.thread, self._stop)
        self.thread.shutdown()


@pytest.fixture
def restarting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Restarting:
    place = Restarting(tmp_path / "server")
    (tmp_path / "server").mkdir(0o700)
    place.file.write_text(f"[s]\nhost=127.0.0.1\nport={free_port()}\n")
    monkeypatch.setenv("PGSERVICEFILE", str(place.file))
    return place


@direct
async def test_requests_outlive_a_restart_of_the_server(way: Way, restarting: Restarting) -> None:
    place = restarting
    reader = Multiplexer("service=s", read_only=True, timeout=10)
    writer = Multiplexer("service=s", read_only=False, timeout=0.3)
    await reader.open()
    await writer.open()
    try:
        began = time.monotonic()
        with pytest.raises(ConnectionUnavailable) as caught:
            await writer.fetch([], "select 1")
        assert not caught.value.maybe_done
        assert 0.2 < time.monotonic() - began < 2
        first = asyncio.create_task(reader.fetch([], "select 1"))
        await place.start()
        up = time.monotonic()
        assert await first == [(b"1",)]
        await until(lambda: reader.connected and writer.connected)
        assert time.monotonic() - up < 3

        stop = asyncio.Event()

        async def load() -> int:
            count = 0
            while not stop.is_set():
                assert await reader.fetch([], "select 1 from pg_sleep(0.01)") == [(b"1",)]
                count += 1
            return count

        loads = [asyncio.create_task(load()) for _ in range(8)]
        for number in (signal.SIGINT, signal.SIGKILL):
            write = asyncio.create_task(
                outcome(writer, [], "select pg_sleep(9)", statement_timeout=9)
            )
            await until(lambda: writer.stats.in_flight == 1)
            await place.stop(number)
            assert await write is ConnectionUnavailable
            await until(lambda: not reader.connected)
            await place.start()
            up = time.monotonic()
            await reader.fetch([], "select 1")
            assert time.monotonic() - up < 3
            await until(lambda: writer.stats.connections == reader.stats.connections == 2, 3)
        stop.set()
        assert min(await asyncio.gather(*loads)) > 2
    finally:
        await reader.close(timeout=1)
        await writer.close(timeout=1)
        await place.close()


async def test_a_restart_of_the_pooler_is_survived(server: Server, tmp_path: Path) -> None:
    port = free_port()
    driver = Multiplexer(
        f"host=127.0.0.1 port={port} dbname=app user=app", read_only=True, prepare=False
    )
    await driver.open()
    for _ in range(2):
        with pgbouncer(server, tmp_path, port):
            assert await driver.fetch(org(1), GET, [ORGS[1], "1"]) == [(b"2/1",)]
            cut = asyncio.create_task(outcome(driver, [], "select 1 from pg_sleep(0.3)"))
            await until(lambda: driver.stats.in_flight == 1)
    with pgbouncer(server, tmp_path, port):
        assert await cut == [(b"1",)]
    await driver.close(timeout=1)


@direct
async def test_it_connects_again_and_again_but_never_busily(way: Way) -> None:
    accepted: list[float] = []

    async def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.append(time.monotonic())
        writer.close()

    listener = await asyncio.start_server(refuse, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    driver = Multiplexer(
        f"host=127.0.0.1 port={port} user=app sslmode=disable gssencmode=disable",
        connections=1,
        read_only=True,
    )
    await driver.open()
    try:
        await until(lambda: len(accepted) >= 10)
        gaps = [later - earlier for earlier, later in pairwise(accepted)]
        assert min(gaps[:3]) < 0.2
        assert max(gaps) < 2
        assert min(gaps[-4:]) > 0.2
    finally:
        await driver.close(timeout=0.1)
        listener.close()
