"""A live service whose database moves: to a pooler, to another database, to a wrong address."""

import asyncio
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from structlog.testing import capture_logs

from db import roles
from db.connections.database import Database as Connections
from db.connections.monitor import DATABASE_DOWN
from db.connections.pipeline import PipelineConnection
from db.errors import Unavailable
from db.tenancy import anonymous_session
from evidence.harness.pgbouncer import pooler
from tests.platform.fix_database import connecting, eventually, run_connected
from tests.platform.fix_postgres import Database, Postgres
from tests.platform.fix_tools import tool

WHERE = "select current_database()"


@dataclass
class Address:
    """The setting, which can change while the service runs."""

    url: str

    def __call__(self) -> str:
        return self.url


@pytest.fixture
def address(database_copy: Database) -> Address:
    """The address of a database that no other test uses."""
    return Address(database_copy.app_url)


@pytest.fixture
def pooled_url(database_copy: Database) -> Iterator[str]:
    tool("pgbouncer")
    with tempfile.TemporaryDirectory() as run:
        folder = Path(run, "pooler")
        folder.mkdir()
        with pooler(folder, database_copy.app_url) as url:
            yield url


async def where(connections: Connections) -> set[bytes | None]:
    """Return the databases that a statement alone and one in a transaction reach."""
    session = anonymous_session(connections)
    [(alone,)] = await session.fetch(WHERE)
    async with session.transaction() as tx:
        [(within,)] = await tx.fetch(WHERE)
    return {alone, within}


def uses_names(connections: Connections) -> set[bool]:
    """Return whether the shared connections use names of prepared statements."""
    return {c.use_names for c in pipelines(connections)}


def pipelines(connections: Connections) -> list[PipelineConnection]:
    return [c for m in connections._multiplexers.values() for c in m._connections]


def test_each_connection_finds_out_whether_it_reached_a_pooler(
    address: Address, database_copy: Database, pooled_url: str
) -> None:
    async def test(connections: Connections) -> None:
        await where(connections)
        assert uses_names(connections) == {True}
        depths = {c.max_depth for c in pipelines(connections)}
        for url, is_direct in [(pooled_url, False), (database_copy.app_url, True)]:
            address.url = url
            await eventually(lambda d=is_direct: uses_names(connections) == {d})
            expected = depths if is_direct else {min(depth, 1) for depth in depths}
            await eventually(lambda e=expected: {c.max_depth for c in pipelines(connections)} == e)
            assert await where(connections) == {database_copy.name.encode()}
            assert connections.not_ready_reason is None

    run_connected(address, test)


def test_a_new_address_replaces_connections_after_their_last_result(
    address: Address, database_copy: Database, postgres: Postgres
) -> None:
    other = postgres.database()

    async def test(connections: Connections) -> None:
        session = anonymous_session(connections)
        await where(connections)
        slow = asyncio.create_task(session.fetch(f"{WHERE} from pg_sleep(1.5)"))
        await asyncio.sleep(0.1)
        address.url = other.app_url
        await eventually(
            lambda: {c.connection.info.dbname for c in pipelines(connections)} == {other.name}
        )
        assert await where(connections) == {other.name.encode()}
        assert await slow == [(database_copy.name.encode(),)]

    run_connected(address, test)


@pytest.mark.parametrize("wrong", ["nonsense", "postgresql://app@127.0.0.1:9/none"])
def test_the_database_serves_while_a_new_address_cannot_be_connected_to(
    address: Address, database_copy: Database, wrong: str
) -> None:
    async def test(connections: Connections) -> None:
        await where(connections)
        with capture_logs() as lines:
            address.url = wrong
            await eventually(lambda: lines)
            await asyncio.sleep(1.2)
            assert connections.not_ready_reason is None
            assert await where(connections) == {database_copy.name.encode()}
        assert [line["event"] for line in lines] == ["database_address_rejected"]

    run_connected(address, test)


def test_no_statement_runs_in_a_database_that_has_not_passed_the_audit(
    address: Address, database_copy: Database, postgres: Postgres
) -> None:
    """The connections are lost at the same moment, so they are the first to reach the new one."""
    other = postgres.database()
    with psycopg.connect(other.superuser_url) as superuser:
        superuser.execute("alter table projects disable row level security")

    async def test() -> None:
        async with connecting(address) as (connections, refusals):
            await where(connections)
            address.url = other.app_url
            with psycopg.connect(postgres.superuser_url, autocommit=True) as superuser:
                superuser.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity where usename = %s"
                    " and datname = %s",
                    (roles.APP, database_copy.name),
                )
            reached: set[bytes | None] = set()
            while not refusals:
                try:
                    reached |= await where(connections)
                except Unavailable:
                    await asyncio.sleep(0.01)
            assert other.name.encode() not in reached
            with pytest.raises(Unavailable):
                await where(connections)

    asyncio.run(test())


def test_a_database_is_not_ready_while_requests_cannot_connect(
    address: Address, database_copy: Database, postgres: Postgres
) -> None:
    """The connection that monitors the database still works."""

    async def test(connections: Connections) -> None:
        await where(connections)
        with psycopg.connect(postgres.superuser_url, autocommit=True) as superuser:
            superuser.execute(f'alter database "{database_copy.name}" allow_connections false')
            try:
                for pipeline in pipelines(connections):
                    process = pipeline.connection.info.backend_pid
                    superuser.execute("select pg_terminate_backend(%s)", (process,))
                await eventually(lambda: connections.not_ready_reason == DATABASE_DOWN)
            finally:
                superuser.execute(f'alter database "{database_copy.name}" allow_connections true')
        await eventually(lambda: connections.not_ready_reason is None)

    run_connected(address, test)
