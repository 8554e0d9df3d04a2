"""The connections: whom they are refused, and what requests get while the database is not there."""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from db import migrate, revisions, server_versions
from db.connections import dsn
from db.connections.database import Database as Connections
from db.errors import (
    BrokenReference,
    Conflict,
    DbError,
    InvalidValue,
    NotFound,
    StatementTimeout,
    Unavailable,
    from_postgres,
    is_connection_lost,
)
from db.tenancy import Session, anonymous_session, tenant_session
from tests.platform.fix_postgres import Database, Postgres
from tests.platform.fix_proxy import Proxy, proxy
from tests.platform.fix_service import Service, Tenant, serving, tenant, until

APP = "covenant_app"
POLICY = "drop policy tenant_isolation on projects; create policy tenant_isolation on projects"
BOUND = "org_id = (select nullif(current_setting('app.org_id', true), '')::uuid)"
PLANTED = """
import sys
from types import SimpleNamespace
from service import serve

async def writes_in_get(org_id, project_id, tenant):
    await tenant.fetch("insert into projects values ($1, gen_random_uuid(), 'x')", org_id)

async def writes_in_get_in_a_transaction(org_id, tenant, limit, cursor=None):
    async with tenant.transaction() as tx:
        await tx.run("insert into projects values ($1, gen_random_uuid(), 'x')", org_id)

async def has_no_grant(org_id, project_id, tenant):
    await tenant.fetch("update projects set name = 'x' where org_id = $1", org_id)

async def is_slow(org_id, body, tenant):
    async with tenant.transaction() as tx:
        await tx.fetch("select pg_sleep(20)")

sys.modules["handlers.projects"] = SimpleNamespace(
    get=writes_in_get,
    list_=writes_in_get_in_a_transaction,
    delete=has_no_grant,
    create=is_slow,
)
serve.serve()
"""


@contextmanager
def role(postgres: Postgres, rights: str) -> Iterator[str]:
    """A role like the serving one, but with `rights`; its password is x."""
    name = f"covenant_test_{secrets.token_hex(4)}"  # a run that was killed may have left its own
    with psycopg.connect(postgres.superuser_url, autocommit=True) as superuser:
        superuser.execute(f"create role {name} login password 'x' {rights}")
        try:
            yield name
        finally:
            superuser.execute(f"drop role {name}")


@asynccontextmanager
async def opened(
    url: str | Callable[[], str], **options: Any
) -> AsyncIterator[tuple[Connections, list[str]]]:
    refusals: list[str] = []
    connections = Connections(url, refuse=refusals.append, **options)
    await connections.open()
    try:
        yield connections, refusals
    finally:
        await connections.close()


async def eventually(condition: Callable[[], Any], patience: float = 10) -> None:
    async with asyncio.timeout(patience):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def refusal_of(url: str) -> str:
    """Return why the service does not serve with this role and this schema."""

    async def ask() -> str:
        async with opened(url, timeout=0.2) as (connections, refusals):
            await eventually(lambda: refusals or connections.reason is None)
            with pytest.raises(Unavailable):
                await anonymous_session(connections).fetch("select 1")
            with pytest.raises(Unavailable):
                async with connections.connection(read_only=True):
                    pass
            assert connections.reason == refusals[0]
            return refusals[0]

    return asyncio.run(ask())


@pytest.mark.parametrize(
    ("rights", "reason"),
    [
        ("superuser", "is a superuser"),
        ("bypassrls", "has BYPASSRLS"),
        ("createrole", "has CREATEROLE"),
        ("replication", "has REPLICATION"),
        ("in role covenant_owner", "is a member of another role"),
        ("in role pg_read_all_data", "is a member of another role"),
    ],
)
def test_a_role_that_could_bypass_the_policies_is_refused(
    postgres: Postgres, database: Database, rights: str, reason: str
) -> None:
    with role(postgres, rights) as name:
        refusal = refusal_of(postgres.url(database.name, name, "x"))
    assert refusal == f"the role {name} could bypass the policies: it {reason}"


def test_a_role_behind_another_is_refused(postgres: Postgres, database: Database) -> None:
    with role(postgres, "in role covenant_app") as name:
        with psycopg.connect(postgres.superuser_url, autocommit=True) as superuser:
            superuser.execute(f"alter role {name} set role {APP}")
        refusal = refusal_of(postgres.url(database.name, name, "x"))
    assert refusal == f"the role {name} could bypass the policies: it is a member of another role"


def test_the_owner_is_refused(database: Database) -> None:
    assert refusal_of(database.owner_url).startswith("the role covenant_owner could bypass")


@pytest.fixture(scope="module")
def template(postgres: Postgres) -> Database:
    """A database that is only ever copied."""
    return postgres.database()


@pytest.fixture
def copy(postgres: Postgres, template: Database) -> Iterator[Database]:
    """A database of the test's own, at the newest revision."""
    name = f"{template.name}_copy"
    urls = {
        key: url.replace(template.name, name)
        for key, url in vars(template).items()
        if key.endswith("_url")
    }
    with psycopg.connect(postgres.superuser_url, autocommit=True) as superuser:
        superuser.execute(f"create database {name} template {template.name}")
        yield Database(name, **urls)
        superuser.execute(f"drop database {name} (force)")


PROJECTS = "the table projects is open to other tenants: "
UNCONFINED = PROJECTS + "there is no policy that confines it to a tenant"


@pytest.mark.parametrize(
    ("plant", "reason"),
    [
        (
            "alter table projects disable row level security",
            PROJECTS + "ROW LEVEL SECURITY is not enabled",
        ),
        (
            "alter table projects no force row level security",
            PROJECTS + "ROW LEVEL SECURITY is not forced",
        ),
        ("drop policy tenant_isolation on projects", UNCONFINED),
        (f"{POLICY} using ({BOUND}) with check (true)", UNCONFINED),
        (f"{POLICY} using ({BOUND})", UNCONFINED),
        (f"{POLICY} for select using ({BOUND})", UNCONFINED),
        (f"{POLICY} to {APP} using ({BOUND}) with check ({BOUND})", UNCONFINED),
        (f"{POLICY} as restrictive using ({BOUND}) with check ({BOUND})", UNCONFINED),
        (
            f"{POLICY} using ({BOUND.replace('org_id =', 'id =')}) "
            f"with check ({BOUND.replace('org_id =', 'id =')})",
            UNCONFINED,
        ),
        (
            "create policy more on projects for select using (true)",
            PROJECTS + "a policy opens more than the tenant's rows",
        ),
        (
            "alter policy member_read on memberships using (true)",
            "the table memberships is open to other tenants: "
            "a policy opens more than the tenant's rows",
        ),
        (f"grant truncate on projects to {APP}", PROJECTS + "the service may truncate it"),
        (
            "create table notes (org_id uuid)",
            "the table notes is open to other tenants: ROW LEVEL SECURITY is not enabled",
        ),
        (
            f"create schema apart; grant usage on schema apart to {APP}; "
            f"create table apart.notes (org_id uuid); grant select on apart.notes to {APP}",
            "the table notes is open to other tenants: ROW LEVEL SECURITY is not enabled",
        ),
        (
            f"create view v as select * from projects; grant select on v to {APP}",
            "v shows rows with its owner's rights, not the service's",
        ),
        (
            f"create materialized view m as select * from projects; grant select on m to {APP}",
            "m shows rows with its owner's rights, not the service's",
        ),
        (
            "create function f() returns int security definer language sql as 'select 1'",
            "f() shows rows with its owner's rights, not the service's",
        ),
        (
            f"alter table used_org_ids owner to {APP}",
            f"the role {APP} could bypass the policies: it owns tables",
        ),
        (
            f"create schema apart authorization {APP}",
            f"the role {APP} could bypass the policies: it owns the database or a schema",
        ),
    ],
)
def test_a_schema_that_is_open_is_refused(copy: Database, plant: str, reason: str) -> None:
    with psycopg.connect(copy.superuser_url, autocommit=True) as superuser:
        superuser.execute(plant)
    assert refusal_of(copy.app_url) == reason


@pytest.mark.parametrize(
    "plant",
    [
        "create policy less on projects as restrictive using (name <> 'x')",
        "create view v with (security_invoker = true) as select * from projects; "
        f"grant select on v to {APP}",
        "create schema apart; create table apart.notes (id int)",
    ],
)
def test_what_opens_nothing_is_served(copy: Database, plant: str) -> None:
    with psycopg.connect(copy.superuser_url, autocommit=True) as superuser:
        superuser.execute(plant)

    async def ask() -> list[str]:
        async with opened(copy.app_url) as (connections, refusals):
            await eventually(lambda: refusals or connections.reason is None)
            return refusals

    assert asyncio.run(ask()) == []


def test_a_server_that_is_too_old_is_refused(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_versions, "MINIMUM", 990_000)
    assert "is too old: 15 or newer is needed" in refusal_of(database.app_url)


def test_a_service_that_is_refused_exits_with_one_line_and_serves_nothing(
    database: Database, tmp_path: Path
) -> None:
    with serving(tmp_path, database.superuser_url, ready=False) as service:
        answers = []
        while service.process.poll() is None:
            try:
                answers.append(httpx.post(f"{service.url}/auth/guest", timeout=5).status_code)
            except httpx.TransportError:
                time.sleep(0.02)
        assert service.process.wait(10) == 1
        assert set(answers) <= {503}
        lines = [json.loads(line) for line in service.log_text().splitlines()]
    lines = [line for line in lines if line["event"] != "request"]
    assert len([line for line in lines if line["level"] == "critical"]) == 1, lines
    assert "could bypass the policies" in lines[-1]["event"]


def test_a_refusal_may_come_with_a_later_migration(copy: Database) -> None:
    """The schema is examined again whenever its revision changes."""

    async def ask() -> None:
        async with opened(copy.app_url) as (connections, refusals):
            await eventually(lambda: connections.reason is None)
            with psycopg.connect(copy.superuser_url, autocommit=True) as superuser:
                superuser.execute("alter table projects disable row level security")
                superuser.execute("update alembic_version set version_num = '9999'")
            await eventually(lambda: refusals)
            with pytest.raises(Unavailable):
                await anonymous_session(connections).fetch("select 1")

    asyncio.run(ask())


def test_a_later_release_may_bring_policies_that_this_one_does_not_know(copy: Database) -> None:
    """A rollout migrates first: the replicas of the release before must serve until they go."""

    async def ask() -> None:
        async with opened(copy.app_url) as (connections, refusals):
            await eventually(lambda: connections.reason is None)
            with psycopg.connect(copy.superuser_url, autocommit=True) as superuser:
                with superuser.transaction():
                    superuser.execute(
                        "create policy later on projects for select "
                        "using (name = current_setting('app.subject', true))"
                    )
                    superuser.execute("update alembic_version set version_num = '9999'")
                await asyncio.sleep(0.8)
                assert refusals == []
                superuser.execute("update alembic_version set version_num = '0001'")
            await eventually(lambda: refusals)

    asyncio.run(ask())


def test_migrations_behind_are_a_reason_and_migrations_ahead_are_not(postgres: Postgres) -> None:
    database = postgres.database(migrated=False)

    async def ask() -> None:
        async with opened(database.app_url) as (connections, refusals):
            await eventually(lambda: "behind" in (connections.reason or ""))
            assert connections.reason == f"the migrations are behind (none of {revisions.head()})"
            await asyncio.to_thread(migrate.upgrade, database.owner_url, "0003")
            await eventually(lambda: "0003 of" in (connections.reason or ""))
            await asyncio.to_thread(migrate.upgrade, database.owner_url)
            await eventually(lambda: connections.reason is None)
            with psycopg.connect(database.superuser_url, autocommit=True) as superuser:
                superuser.execute("update alembic_version set version_num = '9999'")
            await asyncio.sleep(0.6)
            assert connections.reason is None
            assert refusals == []

    asyncio.run(ask())


def run(
    url: str | Callable[[], str],
    ask: Callable[[Connections], Coroutine[Any, Any, None]],
    **options: Any,
) -> None:
    async def main() -> None:
        async with opened(url, **options) as (connections, _):
            await eventually(lambda: connections.reason is None)
            await ask(connections)

    asyncio.run(main())


def test_the_queue_for_a_connection_is_bounded(database: Database) -> None:
    async def ask(connections: Connections) -> None:
        async def use() -> float:
            began = time.monotonic()
            try:
                async with connections.connection(read_only=True):
                    pass
            except Unavailable:
                return time.monotonic() - began
            return -1

        async with connections.connection(read_only=True):
            tasks = [asyncio.create_task(use()) for _ in range(7)]
            waited = sorted(await asyncio.gather(*tasks))
        assert [w < 0.7 for w in waited] == [True] * 4 + [False] * 3
        assert all(1.4 <= w < 3 for w in waited[4:])
        assert await use() == -1

    run(database.app_url, ask, connections=1, waiting=3, timeout=1.5)


def test_a_statement_that_is_too_slow_leaves_a_usable_connection(database: Database) -> None:
    async def ask(connections: Connections) -> None:
        nobody = anonymous_session(connections)
        for _ in range(2):
            with pytest.raises(StatementTimeout):
                await nobody.fetch("select pg_sleep(5)")
            with pytest.raises(StatementTimeout):
                async with nobody.transaction() as tx:
                    await tx.fetch("select pg_sleep(5)")
            assert await nobody.fetch("select 1") == [(b"1",)]
            async with nobody.transaction() as tx:
                assert await tx.fetch("select 1") == [(b"1",)]

    run(database.app_url, ask, connections=1, statement_timeout=0.2)


@pytest.mark.parametrize(
    ("setting", "sql"),
    [
        ("lock_timeout", "select pg_advisory_xact_lock(7)"),
        ("idle_in_transaction_session_timeout", None),
        ("transaction_timeout", "select pg_sleep(5)"),
    ],
)
def test_other_limits_of_the_server_are_unavailable_and_leave_usable_connections(
    database: Database, setting: str, sql: str | None
) -> None:
    async def late(nobody: Session) -> None:
        async with nobody.transaction() as tx:
            await tx.fetch("select set_config($1, '100', true)", setting)
            if sql is None:
                await asyncio.sleep(0.3)
            await tx.fetch(sql or "select 1")

    async def ask(connections: Connections) -> None:
        nobody = anonymous_session(connections)
        if not await nobody.fetch("select from pg_settings where name = $1", setting):
            return  # transaction_timeout came with PostgreSQL 17
        for _ in range(2):
            with pytest.raises(Unavailable) as error:
                await late(nobody)
            assert not isinstance(error.value, StatementTimeout)
            async with nobody.transaction() as tx:
                assert await tx.fetch("select 1") == [(b"1",)]

    with psycopg.connect(database.superuser_url) as holder:
        holder.execute("select pg_advisory_xact_lock(7)")
        run(database.app_url, ask, connections=1)


def test_a_door_may_have_a_limit_of_its_own(database: Database) -> None:
    async def ask(connections: Connections) -> None:
        brief, patient = (
            anonymous_session(connections, timeout=0.1),
            anonymous_session(connections, timeout=5),
        )
        for door, sleeps in ((brief, False), (patient, True), (brief, False)):
            if sleeps:
                assert len(await door.fetch("select pg_sleep(0.4)")) == 1
                async with door.transaction() as tx:
                    assert len(await tx.fetch("select pg_sleep(0.4)")) == 1
            else:
                with pytest.raises(StatementTimeout):
                    await door.fetch("select pg_sleep(0.4)")
                with pytest.raises(StatementTimeout):
                    async with door.transaction() as tx:
                        await tx.fetch("select pg_sleep(0.4)")

    run(database.app_url, ask, connections=1, statement_timeout=0.2)


def test_a_changed_address_is_followed(database: Database, tmp_path: Path) -> None:
    file = tmp_path / "url"

    async def ask(connections: Connections, first: Proxy, second: Proxy) -> None:
        org = "01939b1e-7a00-7000-8000-00000000ac3e"
        reader = tenant_session(connections, org, read_only=True)
        assert await reader.fetch("select 1") == [(b"1",)]
        file.write_text(second.url(database.app_url))
        second.open()
        assert await reader.fetch("select 1") == [(b"1",)]
        first.close()
        assert await reader.fetch("select 1") == [(b"1",)]
        async with reader.transaction() as tx:
            assert await tx.fetch("select 1") == [(b"1",)]
        await eventually(lambda: connections.reason is None)
        file.write_text("nonsense with a secret")
        second.close()
        await eventually(lambda: connections.reason)
        file.write_text(second.url(database.app_url))
        second.open()
        await eventually(lambda: connections.reason is None)

    with proxy(database.app_url) as first, proxy(database.app_url) as second:
        first.open()
        file.write_text(first.url(database.app_url))
        run(dsn.from_file(file), lambda connections: ask(connections, first, second))


@pytest.mark.parametrize("content", [None, b"\xff", b"nonsense s3cret", b"postgresql://[s3cret"])
def test_a_file_without_an_address_is_told_without_its_content(
    tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "url"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(psycopg.OperationalError) as error:
        dsn.from_file(file)()
    assert str(error.value) == f"no URL of a database in {file}"
    assert error.value.__suppress_context__


def test_nothing_that_was_bound_stays_on_the_connection(database: Database) -> None:
    bound = "select current_setting('app.org_id', true), current_setting('transaction_read_only')"

    async def ask(connections: Connections) -> None:
        org = "01939b1e-7a00-7000-8000-00000000ac3e"
        for read_only in (True, False):
            door = tenant_session(connections, org, read_only=read_only)
            mode = b"on" if read_only else b"off"
            assert await door.fetch(bound) == [(org.encode(), mode)]
            async with door.transaction() as tx:
                assert await tx.fetch(bound) == [(org.encode(), mode)]
            with pytest.raises(InvalidValue):
                await door.fetch("select 1/0")
            with pytest.raises(InvalidValue):
                async with door.transaction() as tx:
                    await tx.fetch("select 1/0")
        nobody = anonymous_session(connections)
        assert (await nobody.fetch(bound))[0][0] in (b"", None)
        async with nobody.transaction() as tx:
            assert (await tx.fetch(bound))[0][0] in (b"", None)

    run(database.app_url, ask, connections=1)


def test_a_database_that_falls_silent_holds_no_request_for_long(database: Database) -> None:
    async def ask(connections: Connections, between: Proxy) -> None:
        nobody = anonymous_session(connections)
        await nobody.fetch("select 1")
        async with nobody.transaction() as tx:
            await tx.fetch("select 1")
        between.mute()
        began = time.monotonic()

        async def one() -> None:
            with pytest.raises(Unavailable):
                await nobody.fetch("select 1")

        async def several() -> None:
            with pytest.raises(Unavailable):
                async with nobody.transaction() as tx:
                    await tx.fetch("select 1")

        watched = asyncio.create_task(eventually(lambda: connections.reason))
        await asyncio.gather(one(), several(), several(), watched)
        assert time.monotonic() - began < 5
        between.close()
        between.open()
        await eventually(lambda: connections.reason is None)

        async def again() -> bool:
            try:
                async with nobody.transaction() as tx:
                    await tx.fetch("select 1")
                return bool(await nobody.fetch("select 1"))
            except Unavailable:
                return False

        async with asyncio.timeout(3):
            while not await again():  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    with proxy(database.app_url) as between:
        between.open()
        run(
            between.url(database.app_url),
            lambda connections: ask(connections, between),
            connections=2,
            timeout=0.6,
            statement_timeout=0.4,
        )


@pytest.fixture(scope="module")
def distant(
    tmp_path_factory: pytest.TempPathFactory, database: Database
) -> Iterator[tuple[Service, Proxy]]:
    """A service that was started while its database was away."""
    with proxy(database.app_url) as between:
        url = between.url(database.app_url)
        with serving(tmp_path_factory.mktemp("distant"), url, ready=False) as service:
            until(lambda: _status(service, "/health") == 200)
            yield service, between


def _status(service: Service, path: str) -> int:
    try:
        return httpx.get(f"{service.url}{path}", timeout=10).status_code
    except httpx.TransportError:
        return 0


def test_a_service_starts_without_its_database_and_finds_it_when_it_comes(
    distant: tuple[Service, Proxy],
) -> None:
    service, between = distant
    between.close()
    with service.http() as http:
        ready = until(lambda: (r := http.get("/ready")).status_code == 503 and r)
        assert ready.json()["detail"].startswith("The database is away")
        _demand_unavailable(http)
        between.open()
        _demand_back_soon(service)


def test_a_service_that_starts_while_a_table_is_locked_says_so_and_waits(
    copy: Database, tmp_path: Path
) -> None:
    """To read a policy PostgreSQL locks its table, though only against those who change it."""
    with psycopg.connect(copy.superuser_url) as superuser:
        superuser.execute("lock table projects in access exclusive mode")
        with serving(tmp_path, copy.app_url, ready=False) as service:
            until(lambda: "the database is away (no answer within 1 s)" in service.log_text())
            until(lambda: _status(service, "/ready") == 503)
            superuser.rollback()
            until(lambda: _status(service, "/ready") == 200)


def test_a_database_that_ends_and_returns_is_followed(distant: tuple[Service, Proxy]) -> None:
    service, between = distant
    between.open()
    until(lambda: _status(service, "/ready") == 200)
    with service.http() as http, tenant(service, "Acme") as acme:
        for _ in range(2):
            between.close()
            began = time.monotonic()
            until(lambda: _status(service, "/ready") == 503)
            assert time.monotonic() - began < 4
            assert "away" in http.get("/ready").json()["detail"]
            _demand_unavailable(http)
            between.open()
            _demand_back_soon(service)
            assert acme.get(f"/orgs/{acme.org}").status_code == 200
    assert service.process.poll() is None


def _demand_unavailable(http: httpx.Client) -> None:
    began = time.monotonic()
    answer = http.post("/auth/guest")
    assert time.monotonic() - began < 5
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.json()["code"] == "unavailable"
    assert http.get("/health").status_code == 200


def _demand_back_soon(service: Service) -> None:
    """All three ways to the database: a read, a write, and several statements together."""
    began = time.monotonic()
    with service.http() as http:
        until(lambda: http.post("/auth/guest").status_code == 201)
        assert time.monotonic() - began < 4
        until(lambda: _status(service, "/ready") == 200)
        bearer = {"Authorization": f"Bearer {http.post('/auth/guest').json()['access_token']}"}
        until(lambda: http.post("/orgs", json={"name": "N"}, headers=bearer).status_code == 201)
        until(lambda: http.get("/orgs", headers=bearer).status_code == 200)
    assert time.monotonic() - began < 5


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory, database: Database) -> Iterator[Service]:
    """A service with one connection of each kind."""
    folder = tmp_path_factory.mktemp("narrow")
    with serving(folder, database.app_url, DATABASE_CONNECTIONS="1") as running:
        yield running


def test_two_tenants_in_turn_over_one_connection_see_their_own_rows(narrow: Service) -> None:
    with tenant(narrow, "Acme") as acme, tenant(narrow, "Rival") as rival:
        own = {t.org: t.project("Own")["id"] for t in (acme, rival)}

        def look(t: Tenant, n: int) -> None:
            if n % 4 < 2:
                listed = t.get(f"/orgs/{t.org}/projects").json()["items"]
            else:
                listed = [t.get(f"/orgs/{t.org}/projects/{own[t.org]}").json()]
            assert [(p["org_id"], p["id"]) for p in listed] == [(t.org, own[t.org])]
            other = rival if t is acme else acme
            if n % 10 == 0:
                assert t.get(f"/orgs/{other.org}/projects").status_code == 404
                assert t.get("/orgs").json()["items"][0]["id"] == t.org

        for n in range(200):
            look(acme if n % 2 else rival, n)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda n: look(acme if n % 2 else rival, n), range(200)))


def test_requests_behind_a_lock_are_answered_in_bounded_time(
    narrow: Service, database: Database
) -> None:
    """One statement waits for the lock, some behind it, and those for whom there is no room."""
    most = 400

    async def ask(acme: Tenant) -> list[tuple[int, float, str]]:
        limits = httpx.Limits(max_connections=most + 10)
        async with httpx.AsyncClient(
            base_url=narrow.url, headers=dict(acme.http.headers), limits=limits, timeout=20
        ) as http:

            async def one() -> tuple[int, float, str]:
                answer = await http.get(f"/orgs/{acme.org}/projects")
                seconds = float(answer.elapsed.total_seconds())
                return answer.status_code, seconds, answer.headers.get("retry-after", "")

            async def healthy() -> tuple[int, float, str]:
                answer = await http.get("/health")
                return answer.status_code, answer.elapsed.total_seconds(), "-"

            tasks = [asyncio.create_task(one()) for _ in range(most)]
            await asyncio.sleep(0.5)
            health = await healthy()
            assert health[0] == 200
            return await asyncio.gather(*tasks)

    with tenant(narrow, "Acme") as acme:
        acme.project("Apollo")
        with psycopg.connect(database.superuser_url) as superuser:
            superuser.execute("lock table projects in access exclusive mode")
            answers = asyncio.run(ask(acme))
            superuser.rollback()
        assert {status for status, *_ in answers} == {503}
        assert all(retry.isdigit() for *_, retry in answers)
        log = [
            json.loads(line) for line in narrow.log_text().splitlines() if '"projects.list"' in line
        ]
        took = sorted(line["duration_ms"] for line in log[-most:])
        # A statement ends after 2 s, and whoever waits to be sent waits 2.5 s at most.
        assert took[0] < 500
        assert took[-1] < 6500
        until(lambda: acme.get(f"/orgs/{acme.org}/projects").status_code == 200, 3)


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory, database: Database) -> Iterator[Service]:
    """A service whose handlers of projects are wrong."""
    folder = tmp_path_factory.mktemp("faulty")
    command = ("-c", PLANTED)
    with serving(
        folder, database.app_url, command=command, DATABASE_CONNECTIONS="1", VALIDATE_RESPONSES="0"
    ) as running:
        yield running


@pytest.mark.parametrize("path", ["", "/01939b1e-7a00-7000-8000-00000000ac3e"])
def test_a_handler_that_writes_in_get_fails_and_writes_nothing(
    faulty: Service, database: Database, path: str
) -> None:
    with tenant(faulty, "Acme") as acme:
        assert acme.get(f"/orgs/{acme.org}/projects{path}").status_code >= 500
        with psycopg.connect(database.superuser_url) as superuser:
            query = "select from projects where org_id = %s"
            assert superuser.execute(query, (acme.org,)).rowcount == 0


def test_a_missing_grant_is_a_fault_of_ours_and_logged(faulty: Service) -> None:
    with tenant(faulty, "Acme") as acme:
        path = f"/orgs/{acme.org}/projects/{acme.org}"
        answer = acme.http.delete(path)
    assert answer.status_code == 500
    assert "permission" not in answer.text
    logged = until(
        lambda: [
            line for line in faulty.log_text().splitlines() if answer.json()["request_id"] in line
        ]
    )
    assert any("permission denied for table projects" in line for line in logged)


def test_a_slow_statement_is_answered_in_time_and_the_next_request_works(faulty: Service) -> None:
    with tenant(faulty, "Acme") as acme:
        began = time.monotonic()
        answer = acme.http.post(f"/orgs/{acme.org}/projects", json={"name": "N"})
        assert (answer.status_code, answer.json()["code"]) == (503, "statement-timeout")
        assert time.monotonic() - began < 6
        assert "retry-after" in answer.headers
        assert acme.post("/orgs", name="Next")


def test_errors_of_the_database_mean_what_they_say(database: Database) -> None:
    """A policy and a missing grant share SQLSTATE 42501; only the first is another tenant's row."""
    org = "01939b1e-7a00-7000-8000-00000000ac3e"
    project = "insert into projects (org_id, id, name) values (%s, gen_random_uuid(), 'N')"
    cases: list[tuple[str, str, type[DbError] | None]] = [
        (org, project.replace("%s", "gen_random_uuid()"), NotFound),
        (org, project.replace("%s", f"'{org}'"), BrokenReference),
        (org, "update projects set name = 'x'", None),
        (org, "select from used_org_ids", None),
        (org, "select 1/0", InvalidValue),
        (org, f"insert into organizations (id, name) values ('{org}', null)", InvalidValue),
        (org, "select no_such_column from projects", None),
        (
            org,
            f"insert into organizations (id, name) values ('{org}', 'N'), ('{org}', 'N')",
            Conflict,
        ),
    ]
    with psycopg.connect(database.app_url) as app:
        for bound, statement, expected in cases:
            app.execute("select set_config('app.org_id', %s, true)", (bound,))
            with pytest.raises(psycopg.Error) as error:
                app.execute(statement)
            app.rollback()
            found = from_postgres(error.value)
            assert (type(found) if found else None) is expected, statement


@pytest.mark.parametrize(
    "state",
    ["57014", "55P03", "40001", "40P01", "53100", "53200", "53300", "57P01", "57P03", "25P03"],
)
def test_what_is_over_when_tried_again_is_unavailable(state: str) -> None:
    assert isinstance(from_postgres(psycopg.errors.lookup(state)()), Unavailable)


def test_a_connection_that_a_pooler_ends_is_lost_and_a_corrupt_table_is_not() -> None:
    ended = psycopg.InternalError("received 2 results from command 'COMMIT'")
    assert isinstance(from_postgres(ended), Unavailable)
    assert is_connection_lost(ended)
    assert not is_connection_lost(psycopg.errors.lookup("XX001")())
