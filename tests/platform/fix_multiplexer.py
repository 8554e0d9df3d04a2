"""A multiplexer on its own PostgreSQL server, directly and through PgBouncer."""

import asyncio
import os
import socket
import subprocess
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from db.connections.multiplexer import Multiplexer, QueueFull
from db.connections.pipeline import ConnectionUnavailable
from dev.local.embedded import Server, running
from evidence.harness.processes import free_port
from tests.platform.fix_tools import tool

Row = tuple[bytes | None, ...]

PASSWORD = "only-here"
ORG_IDS = [str(uuid.UUID(int=n)) for n in range(1, 21)]
GET = "select name from projects where org_id = $1 and id = $2"
INSERT = "insert into projects values ($1, $2, $3) returning id"
SETTING = "select current_setting('app.org_id', true)"
BACKEND_PID = "select pg_backend_pid()"
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
class Route:
    """How the multiplexer reaches the server, and on which event loop it runs."""

    conninfo: str
    use_names: bool = True  # False behind a pooler
    use_uvloop: bool = False


@pytest.fixture(scope="session")
def multiplexer_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("server"), fsync=False) as server:
        with psycopg.connect(server.url(), autocommit=True) as admin:
            admin.execute(SCHEMA)
        yield server


@contextmanager
def pgbouncer(server: Server, folder: Path, port: int) -> Iterator[None]:
    """Run PgBouncer in transaction mode with one connection to the server."""
    target = f"host={server.host} port={server.port} dbname=postgres user=app password={PASSWORD}"
    config = folder / "pgbouncer.ini"
    config.write_text(
        f"[databases]\napp = {target}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n"
        "auth_type = any\npool_mode = transaction\ndefault_pool_size = 1\nunix_socket_dir =\n"
        f"server_login_retry = 0\n{'user = nobody' if os.geteuid() == 0 else ''}\n"
    )
    program = tool("pgbouncer")
    with (folder / "log").open("ab") as log:
        child = subprocess.Popen([program, config], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 5
        while not accepts_connections(port):
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.01)
        yield
    finally:
        child.kill()
        child.wait()


def pooler_conninfo(port: int) -> str:
    return f"host=127.0.0.1 port={port} dbname=app user=app"


def accepts_connections(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="session")
def pooler(multiplexer_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    with pgbouncer(multiplexer_server, tmp_path_factory.mktemp("pgbouncer"), port):
        yield pooler_conninfo(port)


@pytest.fixture(params=["direct", "uvloop", "pooled"])
def route(request: pytest.FixtureRequest, multiplexer_server: Server) -> Route:
    if request.param == "pooled":
        return Route(request.getfixturevalue("pooler"), use_names=False)
    url = multiplexer_server.url("app", PASSWORD)
    return Route(url, use_uvloop=request.param == "uvloop")


direct_only = pytest.mark.parametrize("route", ["direct"], indirect=True)
direct_and_uvloop = pytest.mark.parametrize("route", ["direct", "uvloop"], indirect=True)


@asynccontextmanager
async def connected(
    route: Route, *, read_only: bool = False, connections: int = 2, **options: Any
) -> AsyncIterator[Multiplexer]:
    """Yield a multiplexer with all its connections open."""
    multiplexer = Multiplexer(
        route.conninfo,
        read_only=read_only,
        connections=connections,
        **options,
    )
    await multiplexer.open()
    try:
        await until(lambda: multiplexer.stats.connections == connections)
        yield multiplexer
    finally:
        await multiplexer.close(timeout=1)


async def until(condition: Callable[[], bool], timeout: float = 10) -> None:  # noqa: ASYNC109
    """Return once the condition is true; fail after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not true within {timeout} s"
        await asyncio.sleep(0.005)


def org(index: int) -> list[tuple[str, str]]:
    """Return the settings that bind the organization `ORG_IDS[index]`."""
    return [("app.org_id", ORG_IDS[index])]


async def outcome(
    multiplexer: Multiplexer,
    settings: list[tuple[str, str]],
    sql: str,
    parameters: Sequence[str] = (),
    **options: float,
) -> list[Row] | type[BaseException]:
    """Return the rows of a statement, or the type of its error."""
    try:
        return await multiplexer.fetch(settings, sql, parameters, **options)
    except (psycopg.Error, QueueFull, ConnectionUnavailable, asyncio.CancelledError) as error:
        return type(error)
