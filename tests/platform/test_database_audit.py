"""The audit of role and schema: the service must not serve if a policy could be bypassed."""

import asyncio
import json
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psycopg
import pytest

from db import migrate, revisions, server_versions
from db.errors import Reason, Unavailable
from db.tenancy import anonymous_session
from tests.platform.fix_database import connecting, eventually
from tests.platform.fix_postgres import Database, Postgres
from tests.platform.fix_service import serving

APP = "covenant_app"
REPLACE_POLICY = (
    "drop policy tenant_isolation on projects; create policy tenant_isolation on projects"
)
BOUND = "org_id = (select nullif(current_setting('app.org_id', true), '')::uuid)"
BOUND_BY_ID = BOUND.replace("org_id =", "id =")
PROJECTS = "the table projects is open to other tenants: "
UNCONFINED = PROJECTS + "there is no policy that confines it to a tenant"


@contextmanager
def role(postgres: Postgres, attributes: str) -> Iterator[str]:
    """Yield a role with these attributes and the password x."""
    name = f"covenant_test_{secrets.token_hex(4)}"  # a killed run may have left its role behind
    with psycopg.connect(postgres.superuser_url, autocommit=True) as superuser:
        superuser.execute(f"create role {name} login password 'x' {attributes}")
        try:
            yield name
        finally:
            superuser.execute(f"drop role {name}")


def execute(database: Database, sql: str) -> None:
    with psycopg.connect(database.superuser_url, autocommit=True) as superuser:
        superuser.execute(sql)


def set_revision(database: Database, revision: str) -> None:
    execute(database, f"update alembic_version set version_num = '{revision}'")


def refusal(url: str) -> str:
    """Return why the connections are refused; fail when any of them can be used."""

    async def main() -> str:
        async with connecting(url, timeout=0.2) as (connections, refusals):
            await eventually(lambda: refusals or connections.not_ready_reason is None)
            with pytest.raises(Unavailable):
                await anonymous_session(connections).fetch("select 1")
            with pytest.raises(Unavailable):
                async with connections.connection(read_only=True):
                    pass
            assert connections.not_ready_reason == refusals[0]
            return refusals[0]

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("attributes", "reason"),
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
    postgres: Postgres, database: Database, attributes: str, reason: str
) -> None:
    with role(postgres, attributes) as name:
        message = refusal(postgres.url(database.name, name, "x"))
    assert message == f"the role {name} could bypass the policies: it {reason}"


def test_the_session_user_is_audited_besides_the_current_role(
    postgres: Postgres, database: Database
) -> None:
    with role(postgres, f"in role {APP}") as name:
        with psycopg.connect(postgres.superuser_url, autocommit=True) as superuser:
            superuser.execute(f"alter role {name} set role {APP}")
        message = refusal(postgres.url(database.name, name, "x"))
    assert message == f"the role {name} could bypass the policies: it is a member of another role"


def test_the_owner_is_refused(database: Database) -> None:
    assert refusal(database.owner_url).startswith("the role covenant_owner could bypass")


@pytest.mark.parametrize(
    ("change", "reason"),
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
        (f"{REPLACE_POLICY} using ({BOUND}) with check (true)", UNCONFINED),
        (f"{REPLACE_POLICY} using ({BOUND})", UNCONFINED),
        (f"{REPLACE_POLICY} for select using ({BOUND})", UNCONFINED),
        (f"{REPLACE_POLICY} to {APP} using ({BOUND}) with check ({BOUND})", UNCONFINED),
        (f"{REPLACE_POLICY} as restrictive using ({BOUND}) with check ({BOUND})", UNCONFINED),
        (f"{REPLACE_POLICY} using ({BOUND_BY_ID}) with check ({BOUND_BY_ID})", UNCONFINED),
        (
            "create policy more on projects for select using (true)",
            PROJECTS + "a policy allows more than the tenant's rows",
        ),
        (
            "alter policy member_read on memberships using (true)",
            "the table memberships is open to other tenants: "
            "a policy allows more than the tenant's rows",
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
            "v has its owner's access to rows, not the service's",
        ),
        (
            f"create materialized view m as select * from projects; grant select on m to {APP}",
            "m has its owner's access to rows, not the service's",
        ),
        (
            "create function f() returns int security definer language sql as 'select 1'",
            "f() has its owner's access to rows, not the service's",
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
def test_a_schema_that_opens_rows_to_other_tenants_is_refused(
    database_copy: Database, change: str, reason: str
) -> None:
    execute(database_copy, change)
    assert refusal(database_copy.app_url) == reason


@pytest.mark.parametrize(
    "change",
    [
        "create policy less on projects as restrictive using (name <> 'x')",
        "create view v with (security_invoker = true) as select * from projects; "
        f"grant select on v to {APP}",
        "create schema apart; create table apart.notes (id int)",
    ],
)
def test_a_change_that_opens_no_rows_is_accepted(database_copy: Database, change: str) -> None:
    execute(database_copy, change)

    async def main() -> list[str]:
        async with connecting(database_copy.app_url) as (connections, refusals):
            await eventually(lambda: refusals or connections.not_ready_reason is None)
            return refusals

    assert asyncio.run(main()) == []


def test_a_server_that_is_too_old_is_refused(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_versions, "MINIMUM", 990_000)
    assert "is too old: 15 or newer is needed" in refusal(database.app_url)


def test_a_refused_service_logs_the_reason_once_and_exits_without_serving(
    database: Database, tmp_path: Path
) -> None:
    with serving(tmp_path, database.superuser_url, ready=False) as service:
        statuses = set()
        while service.is_running:
            try:
                response = httpx.post(f"{service.url}/auth/guest", timeout=5, verify=False)
                statuses.add(response.status_code)
            except httpx.TransportError:
                time.sleep(0.02)
        assert service.wait(10) == 1
        assert statuses <= {503}
        lines = [json.loads(line) for line in service.log_lines()]
    [line] = [line for line in lines if line["level"] == "critical"]
    assert line["event"] == "service_refused"
    assert "could bypass the policies" in line["reason"]
    assert [x for x in lines if x["event"] != "request"][-1] == line


def test_the_schema_is_audited_again_when_its_revision_changes(database_copy: Database) -> None:
    async def main() -> None:
        async with connecting(database_copy.app_url) as (connections, refusals):
            await eventually(lambda: connections.not_ready_reason is None)
            execute(database_copy, "alter table projects disable row level security")
            set_revision(database_copy, "9999")
            await eventually(lambda: refusals)
            with pytest.raises(Unavailable):
                await anonymous_session(connections).fetch("select 1")

    asyncio.run(main())


def test_a_newer_release_may_add_policies_that_this_one_does_not_know(
    database_copy: Database,
) -> None:
    """A rollout migrates first: replicas of the previous release must keep serving."""

    async def main() -> None:
        async with connecting(database_copy.app_url) as (connections, refusals):
            await eventually(lambda: connections.not_ready_reason is None)
            with psycopg.connect(database_copy.superuser_url) as superuser:
                superuser.execute(
                    "create policy later on projects for select "
                    "using (name = current_setting('app.subject', true))"
                )
                superuser.execute("update alembic_version set version_num = '9999'")
            await asyncio.sleep(0.8)
            assert refusals == []
            set_revision(database_copy, "0001")
            await eventually(lambda: refusals)

    asyncio.run(main())


def test_a_database_is_not_ready_while_its_migrations_are_behind_but_ready_when_ahead(
    postgres: Postgres,
) -> None:
    database = postgres.database(migrated=False)

    async def main() -> None:
        async with connecting(database.app_url) as (connections, refusals):
            await eventually(lambda: "behind" in (connections.not_ready_reason or ""))
            reason = f"migrations are behind (none of {revisions.label(revisions.history().heads)})"
            assert connections.not_ready_reason == reason
            with pytest.raises(Unavailable) as error:
                await anonymous_session(connections).fetch("select * from projects")
            assert (error.value.reason, error.value.detail) == (Reason.NOT_READY, reason)
            await asyncio.to_thread(migrate.upgrade, database.owner_url, "0003")
            await eventually(lambda: "0003 of" in (connections.not_ready_reason or ""))
            await asyncio.to_thread(migrate.upgrade, database.owner_url)
            await eventually(lambda: connections.not_ready_reason is None)
            set_revision(database, "9999")
            await asyncio.sleep(0.6)
            assert connections.not_ready_reason is None
            assert refusals == []

    asyncio.run(main())
