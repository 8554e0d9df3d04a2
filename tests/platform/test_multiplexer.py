"""The multiplexer: tenant isolation, errors, cancellation, and what may be sent."""

import asyncio
import random
from collections import Counter

import psycopg
import pytest
from psycopg import errors

from db.connections import wire
from db.connections.multiplexer import ConnectionStats, Multiplexer
from db.connections.pipeline import ConnectionUnavailable
from tests.platform.fix_multiplexer import (
    BACKEND_PID,
    GET,
    INSERT,
    ORG_IDS,
    SETTING,
    Route,
    Row,
    connected,
    direct_only,
    org,
    outcome,
    until,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend(route: Route) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": route.use_uvloop}


async def test_a_setting_ends_with_its_request(route: Route) -> None:
    async with connected(route, connections=1) as multiplexer:
        for number in range(200):
            settings = org(number % 20)
            assert await multiplexer.fetch(settings, SETTING) == [(ORG_IDS[number % 20].encode(),)]
            assert (await multiplexer.fetch([], SETTING))[0][0] in (None, b"")
            with pytest.raises(errors.DivisionByZero):
                await multiplexer.fetch(settings, "select 1/0")
            assert (await multiplexer.fetch([], SETTING))[0][0] in (None, b"")


async def test_settings_are_bound_as_values_and_never_as_sql(route: Route) -> None:
    injection = "x', false), set_config('app.org_id', 'y"
    async with connected(route) as multiplexer:
        settings = [("app.subject", injection), ("app.org_id", "")]
        query = "select current_setting('app.subject'), current_setting('app.org_id')"
        assert await multiplexer.fetch(settings, query) == [(injection.encode(), b"")]


async def test_interleaved_tenants_never_see_each_other(route: Route) -> None:
    rng, seen = random.Random(1), Counter[str]()
    inserted: set[tuple[int, int]] = set()

    async def send_random(reader: Multiplexer, writer: Multiplexer, number: int) -> None:
        own, other = rng.sample(range(20), 2)
        key, kind = rng.randint(1, 50), rng.random()
        multiplexer = reader if rng.random() < 0.7 else writer
        expected: list[Row] | type[BaseException]
        parameters: tuple[str, ...] = (ORG_IDS[own], str(key))
        if kind < 0.01:
            name, sql, parameters, expected = "1/0", "select 1/0", (), errors.DivisionByZero
        elif kind < 0.02:
            multiplexer, name, sql = writer, "unique", INSERT
            parameters, expected = (*parameters, "again"), errors.UniqueViolation
        elif kind < 0.03:
            name, sql, parameters = "bad uuid", GET, ("no-uuid", str(key))
            expected = errors.InvalidTextRepresentation
        elif kind < 0.05:
            multiplexer, name, sql = writer, "foreign", INSERT
            parameters, expected = (ORG_IDS[other], "99", "x"), errors.InsufficientPrivilege
        elif kind < 0.1:
            multiplexer, name, sql = writer, "insert", INSERT
            id = 1000 + number
            parameters, expected = (ORG_IDS[own], str(id), "new"), [(b"%d" % id,)]
        elif kind < 0.25:
            name, sql, parameters, expected = "probe", GET, (ORG_IDS[other], str(key)), []
        elif kind < 0.4:
            name, sql, parameters = "all", "select distinct org_id from projects", ()
            expected = [(ORG_IDS[own].encode(),)]
        else:
            name, sql, expected = "own", GET, [(f"{own + 1}/{key}".encode(),)]
        task = asyncio.create_task(outcome(multiplexer, org(own), sql, parameters))
        is_cancelled = rng.random() < 0.03
        if is_cancelled:
            for _ in range(rng.randrange(4)):
                await asyncio.sleep(0)
            task.cancel()
        try:
            result = await task
        except asyncio.CancelledError:
            result = asyncio.CancelledError
        was_cancelled = result is asyncio.CancelledError
        seen["cancelled" if was_cancelled else name] += 1
        assert result == expected or (is_cancelled and was_cancelled), (name, result)
        if name == "insert" and result == expected:
            inserted.add((own, 1000 + number))

    async with (
        connected(route, read_only=True, connections=3) as reader,
        connected(route, connections=3) as writer,
    ):
        await writer.fetch([], SETTING)
        numbers = iter(range(20_000 if route.use_names and not route.use_uvloop else 5_000))

        async def work() -> None:
            for number in numbers:
                await send_random(reader, writer, number)

        await asyncio.gather(*[work() for _ in range(48)])
        await until(lambda: reader.stats == writer.stats == ConnectionStats(3, 0, 0))
        for own in range(20):
            rows = await writer.fetch(
                org(own),
                "with deleted as (delete from projects where id >= 1000 returning id) "
                "select id, count(*) over () from deleted",
            )
            stored = {(own, int(row[0] or 0)) for row in rows}
            assert stored >= {pair for pair in inserted if pair[0] == own}
    assert len(seen) == 9
    assert min(seen.values()) > 20, seen


# Errors and cancellation


async def test_an_error_affects_only_its_own_request(route: Route) -> None:
    async with connected(route, connections=1) as multiplexer:
        before = await multiplexer.fetch([], BACKEND_PID)
        requests = [
            outcome(multiplexer, [], "select 10 / $1::int", [str(n % 3)]) for n in range(60)
        ]
        outcomes = await asyncio.gather(*requests)
        quotients = {1: [(b"10",)], 2: [(b"5",)]}
        assert outcomes == [quotients.get(n % 3, errors.DivisionByZero) for n in range(60)]
        assert await multiplexer.fetch([], BACKEND_PID) == before


async def test_errors_have_their_type_and_details(route: Route) -> None:
    async with connected(route) as multiplexer:
        with pytest.raises(errors.UniqueViolation) as error:
            await multiplexer.fetch(org(0), INSERT, [ORG_IDS[0], "1", "x"])
        assert error.value.diag.constraint_name == "projects_pkey"
        with pytest.raises(errors.SyntaxError):
            await multiplexer.fetch([], "select 1; select 2")
        missing = [outcome(multiplexer, [], "select * from missing") for _ in range(40)]
        assert set(await asyncio.gather(*missing)) == {errors.UndefinedTable}


async def test_a_commit_that_fails_is_an_error(route: Route) -> None:
    async with connected(route) as multiplexer:
        with pytest.raises(errors.UniqueViolation):
            await multiplexer.fetch([], "insert into late values (1), (1) returning id")
        assert await multiplexer.fetch([], "select * from late") == []


async def test_cancelling_a_request_does_not_affect_its_connection_or_other_requests(
    route: Route,
) -> None:
    is_pipelined = route.use_names
    sent = ConnectionStats(1, 21, 0) if is_pipelined else ConnectionStats(1, 1, 20)
    remaining = ConnectionStats(1, 21, 0) if is_pipelined else ConnectionStats(1, 1, 10)
    async with connected(route, connections=1, max_queue_delay=60) as multiplexer:
        before = await multiplexer.fetch([], BACKEND_PID)
        slow = asyncio.create_task(multiplexer.fetch([], "select pg_sleep(0.5)"))
        await until(lambda: multiplexer.stats.in_flight == 1)
        others = [asyncio.create_task(multiplexer.fetch([], f"select {n}")) for n in range(20)]
        await until(lambda: multiplexer.stats == sent)
        for task in (slow, *others[::2]):
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await slow
        assert multiplexer.stats == remaining
        assert await asyncio.gather(*others[1::2]) == [[(b"%d" % n,)] for n in range(1, 20, 2)]
        await until(lambda: multiplexer.stats == ConnectionStats(1, 0, 0))
        assert await multiplexer.fetch([], BACKEND_PID) == before


# What may be sent


@pytest.mark.parametrize("text", ["a\0b", "\ud800"])
async def test_text_that_postgresql_cannot_store_is_rejected_before_it_is_sent(
    route: Route, text: str
) -> None:
    async with connected(route, connections=1) as multiplexer:
        before = await multiplexer.fetch([], BACKEND_PID)
        for settings, sql, parameters in (
            ([], "select $1", [text]),
            ([("app.org_id", text)], "select 1", []),
            ([], f"select '{text}'", []),
        ):
            with pytest.raises(psycopg.DataError):
                await multiplexer.fetch(settings, sql, parameters)
        assert multiplexer.stats == ConnectionStats(1, 0, 0)
        rows = await multiplexer.fetch([], "select $1, $2", ["ü", None])
        assert rows == [("ü".encode(), None)]
        assert await multiplexer.fetch([], BACKEND_PID) == before


@direct_only
async def test_text_is_utf_8_whatever_pgclientencoding_says(
    route: Route, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", "latin1")
    async with connected(route) as multiplexer:
        rows = await multiplexer.fetch([], "select $1, length($1)", ["€"])
        assert rows == [("€".encode(), b"1")]


OUTLASTING = (
    "begin", "commit", "set app.org_id = 'x'", "listen x", "copy marks from stdin",
    "copy marks to stdout", "prepare transaction 'x'", "declare c cursor with hold for select 1",
    "discard all", "do 'begin end'", "call x()", "-- select\nbegin", "",
)  # fmt: skip


async def test_sql_that_would_outlast_its_transaction_is_rejected(route: Route) -> None:
    async with connected(route, connections=1) as multiplexer:
        before = await multiplexer.fetch([], BACKEND_PID)
        for sql in OUTLASTING:
            with pytest.raises(psycopg.NotSupportedError):
                await multiplexer.fetch([], sql)
        assert await multiplexer.fetch([], " (\n SELECT 1)") == [(b"1",)]
        assert await multiplexer.fetch([], BACKEND_PID) == before


@pytest.mark.parametrize("sql", ["copy marks from stdin", "copy marks to stdout"])
async def test_a_copy_that_is_sent_nevertheless_does_not_block_the_connection(
    route: Route, sql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connected(route, connections=1) as multiplexer:
        monkeypatch.setattr(wire, "_statement", str.encode)
        statements = ("select 1", sql, "select 2", "select 3")
        requests = [outcome(multiplexer, [], statement) for statement in statements]
        outcomes = await asyncio.gather(*requests)
        assert outcomes[0] == [(b"1",)]
        assert outcomes[1] is ConnectionUnavailable
        assert await multiplexer.fetch([], "select 4") == [(b"4",)]


async def test_notices_and_changed_server_parameters_are_ignored(route: Route) -> None:
    async with connected(route, connections=1) as multiplexer:
        for _ in range(20):  # how many may wait depends on how long the first ones took
            before = await multiplexer.fetch([], BACKEND_PID)
        sql = "select noisy(), " + SETTING.removeprefix("select ")
        requests = [multiplexer.fetch(org(n % 20), sql) for n in range(100)]
        rows = await asyncio.gather(*requests)
        assert rows == [[(b"1", ORG_IDS[n % 20].encode())] for n in range(100)]
        assert await multiplexer.fetch([], BACKEND_PID) == before


async def test_a_read_only_multiplexer_cannot_write(route: Route) -> None:
    unlock = "with x as (select set_config('transaction_read_only', 'off', true)) select writes()"
    async with connected(route, read_only=True) as reader, connected(route) as writer:
        for sql in ("insert into marks values (1)", "select writes()", "delete from marks"):
            with pytest.raises(errors.ReadOnlySqlTransaction):
                await reader.fetch([], sql)
            await writer.fetch([], sql)
        with pytest.raises(psycopg.Error):
            await reader.fetch([], unlock + " from x")
