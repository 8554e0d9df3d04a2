"""The connections to PostgreSQL: queueing, timeouts, bound settings, and a changed address."""

import asyncio
import time
from pathlib import Path

import psycopg
import pytest

from db.connections import dsn
from db.connections.database import Database as Connections
from db.errors import InvalidValue, Reason, StatementTimeout, Unavailable
from db.tenancy import Session, anonymous_session, tenant_session
from tests.platform.fix_database import ORG_ID, eventually, run_connected
from tests.platform.fix_postgres import Database
from tests.platform.fix_proxy import Proxy, proxy

ONE = [(b"1",)]


async def select_1(session: Session) -> None:
    """Run a statement alone, and one in a transaction."""
    assert await session.fetch("select 1") == ONE
    async with session.transaction() as tx:
        assert await tx.fetch("select 1") == ONE


async def fails(session: Session, sql: str, error: type[Exception]) -> None:
    """Expect the error from a statement alone, and from one in a transaction."""
    with pytest.raises(error):
        await session.fetch(sql)
    with pytest.raises(error):
        async with session.transaction() as tx:
            await tx.fetch(sql)


def test_the_queue_for_a_connection_is_bounded(database: Database) -> None:
    reasons = set()

    async def test(connections: Connections) -> None:
        async def wait_seconds() -> float:
            """Return how long it took to be rejected, or -1 when a connection was free."""
            started = time.monotonic()
            try:
                async with connections.connection(read_only=True):
                    return -1
            except Unavailable as error:
                reasons.add(error.reason)
                return time.monotonic() - started

        async with connections.connection(read_only=True):
            tasks = [asyncio.create_task(wait_seconds()) for _ in range(7)]
            waits = sorted(await asyncio.gather(*tasks))
        assert [seconds < 0.7 for seconds in waits] == [True] * 4 + [False] * 3
        assert all(1.4 <= seconds < 3 for seconds in waits[4:])
        assert reasons == {Reason.NO_ROOM}
        assert await wait_seconds() == -1

    run_connected(database.app_url, test, connections=1, max_waiting=3, timeout=1.5)


def test_a_statement_timeout_leaves_a_usable_connection(database: Database) -> None:
    async def test(connections: Connections) -> None:
        session = anonymous_session(connections)
        for _ in range(2):
            await fails(session, "select pg_sleep(5)", StatementTimeout)
            await select_1(session)

    run_connected(database.app_url, test, connections=1, statement_timeout=0.2)


@pytest.mark.parametrize(
    ("setting", "sql"),
    [
        ("lock_timeout", "select pg_advisory_xact_lock(7)"),
        ("idle_in_transaction_session_timeout", None),
        ("transaction_timeout", "select pg_sleep(5)"),
    ],
)
def test_other_timeouts_of_the_server_are_unavailable_and_leave_usable_connections(
    database: Database, setting: str, sql: str | None
) -> None:
    async def exceed(session: Session) -> None:
        async with session.transaction() as tx:
            await tx.fetch("select set_config($1, '100', true)", setting)
            if sql is None:
                await asyncio.sleep(0.3)
            await tx.fetch(sql or "select 1")

    async def test(connections: Connections) -> None:
        session = anonymous_session(connections)
        if not await session.fetch("select from pg_settings where name = $1", setting):
            return  # transaction_timeout is new in PostgreSQL 17
        for _ in range(2):
            with pytest.raises(Unavailable) as error:
                await exceed(session)
            assert not isinstance(error.value, StatementTimeout)
            async with session.transaction() as tx:
                assert await tx.fetch("select 1") == ONE

    with psycopg.connect(database.superuser_url) as superuser:
        superuser.execute("select pg_advisory_xact_lock(7)")
        run_connected(database.app_url, test, connections=1)


def test_a_session_may_have_its_own_statement_timeout(database: Database) -> None:
    async def test(connections: Connections) -> None:
        shorter = anonymous_session(connections, statement_timeout=0.1)
        longer = anonymous_session(connections, statement_timeout=5)
        for _ in range(2):
            await fails(shorter, "select pg_sleep(0.4)", StatementTimeout)
            assert len(await longer.fetch("select pg_sleep(0.4)")) == 1
            async with longer.transaction() as tx:
                assert len(await tx.fetch("select pg_sleep(0.4)")) == 1

    run_connected(database.app_url, test, connections=1, statement_timeout=0.2)


def test_bound_settings_do_not_stay_on_the_connection(database: Database) -> None:
    query = "select current_setting('app.org_id', true), current_setting('transaction_read_only')"

    async def test(connections: Connections) -> None:
        for read_only in (True, False):
            session = tenant_session(connections, ORG_ID, read_only=read_only)
            bound = [(ORG_ID.encode(), b"on" if read_only else b"off")]
            assert await session.fetch(query) == bound
            async with session.transaction() as tx:
                assert await tx.fetch(query) == bound
            await fails(session, "select 1/0", InvalidValue)
        session = anonymous_session(connections)
        assert (await session.fetch(query))[0][0] in (b"", None)
        async with session.transaction() as tx:
            assert (await tx.fetch(query))[0][0] in (b"", None)

    run_connected(database.app_url, test, connections=1)


def test_a_changed_address_is_used_for_new_connections(database: Database, tmp_path: Path) -> None:
    file = tmp_path / "url"

    async def test(connections: Connections, first: Proxy, second: Proxy) -> None:
        session = tenant_session(connections, ORG_ID, read_only=True)
        assert await session.fetch("select 1") == ONE
        file.write_text(second.url(database.app_url))
        second.open()
        assert await session.fetch("select 1") == ONE
        first.close()
        await select_1(session)
        await eventually(lambda: connections.not_ready_reason is None)
        file.write_text("nonsense with a secret")
        second.close()
        await eventually(lambda: connections.not_ready_reason)
        file.write_text(second.url(database.app_url))
        second.open()
        await eventually(lambda: connections.not_ready_reason is None)

    with proxy(database.app_url) as first, proxy(database.app_url) as second:
        first.open()
        file.write_text(first.url(database.app_url))
        run_connected(dsn.from_file(file), lambda connections: test(connections, first, second))


@pytest.mark.parametrize("content", [None, b"\xff", b"nonsense s3cret", b"postgresql://[s3cret"])
def test_the_error_for_a_file_without_a_url_does_not_reveal_its_content(
    tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "url"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(psycopg.OperationalError) as error:
        dsn.from_file(file)()
    assert str(error.value) == f"{file} contains no database URL"
    assert error.value.__suppress_context__


def test_a_database_that_stops_responding_blocks_no_request_for_long(database: Database) -> None:
    async def test(connections: Connections, between: Proxy) -> None:
        session = anonymous_session(connections)
        await select_1(session)
        between.stall()
        started = time.monotonic()

        async def statement() -> None:
            with pytest.raises(Unavailable):
                await session.fetch("select 1")

        async def transaction() -> None:
            with pytest.raises(Unavailable):
                async with session.transaction() as tx:
                    await tx.fetch("select 1")

        noticed = asyncio.create_task(eventually(lambda: connections.not_ready_reason))
        await asyncio.gather(statement(), transaction(), transaction(), noticed)
        assert time.monotonic() - started < 5
        error = connections.not_ready_error
        assert error
        assert error.reason == Reason.DATABASE_AWAY
        between.close()
        between.open()
        await eventually(lambda: connections.not_ready_reason is None)
        assert connections.not_ready_error is None

        async def is_usable() -> bool:
            try:
                await select_1(session)
            except Unavailable:
                return False
            return True

        async with asyncio.timeout(3):
            while not await is_usable():  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    with proxy(database.app_url) as between:
        between.open()
        run_connected(
            between.url(database.app_url),
            lambda connections: test(connections, between),
            connections=2,
            timeout=0.6,
            statement_timeout=0.4,
        )
