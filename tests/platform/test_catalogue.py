"""The certificate's catalogue checks: they accept the schema, and detect each injected fault."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from evidence.certificate import catalogue
from openapi import contract
from tests.platform.fix_postgres import Database, Postgres

APP = "covenant_app"
# Spelled out, because the certificate derives them from the contract.
GRANTS = {
    "table alembic_version": {"SELECT"},
    "table organizations": {"SELECT", "INSERT", "DELETE"},
    "table memberships": {"SELECT", "INSERT"},
    "table projects": {"SELECT", "INSERT", "DELETE"},
    "table idempotency_keys": {"SELECT", "INSERT", "DELETE"},
    "table used_org_ids": {"INSERT"},
    "sequence guest_number": {"USAGE"},
    "schema public": {"USAGE"},
    "database to everybody": {"CONNECT"},
}


def faults(connection: psycopg.Connection[Any]) -> set[str]:
    return catalogue.faults(connection, GRANTS)


@pytest.fixture(scope="module")
def empty(postgres: Postgres) -> Database:
    """A database without rows, because an injected key could conflict with rows of other tests."""
    return postgres.database()


@pytest.fixture
def superuser(empty: Database) -> Iterator[psycopg.Connection[Any]]:
    """A superuser's connection that is rolled back."""
    with psycopg.connect(empty.superuser_url) as connection:
        connection.execute("set local lock_timeout = '5s'")
        yield connection
        connection.rollback()


def test_the_expected_grants_are_those_that_the_operations_need() -> None:
    assert catalogue.needed(contract.load()) == GRANTS


def test_every_table_passes_every_check(superuser: psycopg.Connection[Any]) -> None:
    assert faults(superuser) == set()


NOTES = """create table notes (org_id uuid not null references organizations on delete cascade,
    id uuid not null, text text, primary key (org_id, id))"""
ISOLATION = """alter table notes enable row level security;
    alter table notes force row level security;
    create policy tenant_isolation on notes
    using (org_id = (select nullif(current_setting('app.org_id', true), '')::uuid))
    with check (org_id = (select nullif(current_setting('app.org_id', true), '')::uuid))"""
IMMUTABLE = """create function public.org() returns uuid immutable language sql as
    $$ select nullif(current_setting('app.org_id', true), '')::uuid $$;
    revoke all on function org() from public;
    drop policy tenant_isolation on projects;
    create policy tenant_isolation on projects using (org_id = org()) with check (org_id = org())"""
POLICY = "drop policy tenant_isolation on projects; create policy tenant_isolation on projects"
BOUND = "org_id = (select nullif(current_setting('app.org_id', true), '')::uuid)"


@pytest.mark.parametrize(
    ("statement", "fault"),
    [
        ("alter table projects disable row level security", "projects: not enabled"),
        ("alter table projects no force row level security", "projects: not forced"),
        ("drop policy tenant_isolation on projects", "projects: no tenant_isolation"),
        (NOTES, "notes: not enabled"),
        (NOTES, "notes: not forced"),
        (NOTES, "notes: no tenant_isolation"),
        (
            f"{NOTES}; {ISOLATION}; alter table notes no force row level security",
            "notes: not forced",
        ),
        (f"create schema apart; {NOTES.replace('notes', 'apart.notes')}", "notes: not enabled"),
        ("create table secrets (id uuid primary key)", "secrets: no org_id uuid not null"),
        (
            f"{POLICY} using ({BOUND}) with check (true)",
            "projects: tenant_isolation has another expression",
        ),
        (f"{POLICY} using ({BOUND})", "projects: tenant_isolation has another expression"),
        (
            f"{POLICY} using ({BOUND} or current_setting('app.org_id', true) is null) "
            f"with check ({BOUND} or current_setting('app.org_id', true) is null)",
            "projects: tenant_isolation has another expression",
        ),
        (f"{POLICY} for select using ({BOUND})", "projects: no tenant_isolation"),
        (
            f"{POLICY} to {APP} using ({BOUND}) with check ({BOUND})",
            "projects: policy tenant_isolation is not a permissive one for every role",
        ),
        (
            f"{POLICY} as restrictive using ({BOUND}) with check ({BOUND})",
            "projects: policy tenant_isolation is not a permissive one for every role",
        ),
        (
            "create policy more on projects for select using (true)",
            "projects: policy more is not one of those that are known",
        ),
        (
            "drop policy member_read on memberships; "
            "create policy member_read on memberships for select using (true)",
            "memberships: policy member_read is not one of those that are known",
        ),
        ("drop policy owner_delete on organizations", "organizations: no owner_delete"),
        (IMMUTABLE, "immutable function org in a policy is around the policies"),
        (f"grant update on projects to {APP}", "table projects: UPDATE is granted"),
        (f"grant truncate on projects to {APP}", "table projects: TRUNCATE is granted"),
        (f"grant references on projects to {APP}", "table projects: REFERENCES is granted"),
        (f"grant trigger on projects to {APP}", "table projects: TRIGGER is granted"),
        (f"grant update (name) on projects to {APP}", "column projects.name: UPDATE is granted"),
        ("grant select on projects to public", "table projects to everybody: SELECT is granted"),
        (f"grant select on used_org_ids to {APP}", "table used_org_ids: SELECT is granted"),
        (f"grant insert on alembic_version to {APP}", "table alembic_version: INSERT is granted"),
        (f"revoke delete on projects from {APP}", "table projects: DELETE is missing"),
        (
            f"grant select on projects to {APP} with grant option",
            "table projects: SELECT can be passed on",
        ),
        (f"grant select on guest_number to {APP}", "sequence guest_number: SELECT is granted"),
        (f"grant create on schema public to {APP}", "schema public: CREATE is granted"),
        (
            "grant create on schema public to public",
            "schema public to everybody: CREATE is granted",
        ),
        (
            f"alter default privileges grant select on tables to {APP}",
            "default of r: SELECT is granted",
        ),
        (
            f"do $$ begin execute format('grant temporary on database %I to {APP}', "
            "current_database()); end $$",
            "database: TEMPORARY is granted",
        ),
        (
            "create function public.f() returns int language sql as 'select 1'",
            "function f to everybody: EXECUTE is granted",
        ),
        (
            "create function public.f() returns int language sql security definer as 'select 1'",
            "security definer function f is around the policies",
        ),
        ("create view v as select * from projects", "view v is around the policies"),
        (
            "create materialized view m as select * from projects",
            "materialized view m is around the policies",
        ),
        (
            "create rule r as on delete to projects do also delete from memberships",
            "rule r is around the policies",
        ),
        (
            f"{NOTES.replace(', primary key (org_id, id)', '')} partition by list (org_id); "
            f"{ISOLATION}; create table part partition of notes default",
            "part: not enabled",
        ),
        ("create table child () inherits (projects)", "child: not enabled"),
        (
            "alter table projects add unique (name)",
            "projects: unique projects_name_key is an existence oracle",
        ),
        (
            "create unique index lower_name on projects (lower(name), org_id)",
            "projects: unique lower_name is an existence oracle",
        ),
        (
            f"{NOTES.replace('(org_id, id)', '(id, org_id)')}",
            "notes: unique notes_pkey is an existence oracle",
        ),
        (
            "alter table projects add unique (org_id, id, name); create unique index on projects "
            "(id); create table tasks (org_id uuid not null, id uuid not null, project uuid "
            "constraint of_project references projects (id), primary key (org_id, id))",
            "tasks: reference of_project crosses tenants",
        ),
        (
            "create table tasks (org_id uuid not null, id uuid not null, project uuid, "
            "primary key (org_id, id), constraint swapped foreign key (project, org_id) "
            "references projects (org_id, id))",
            "tasks: reference swapped crosses tenants",
        ),
        (f"alter role {APP} superuser", f"{APP}: superuser"),
        (f"alter role {APP} bypassrls", f"{APP}: bypassrls"),
        (f"alter role {APP} createrole", f"{APP}: createrole"),
        (f"alter role {APP} createdb", f"{APP}: createdb"),
        (f"alter role {APP} replication", f"{APP}: replication"),
        (f"grant covenant_owner to {APP}", f"{APP}: member of a role"),
        (f"grant pg_read_all_data to {APP}", f"{APP}: member of a role"),
        (f"alter table used_org_ids owner to {APP}", f"{APP}: owner of something"),
        (f"alter role {APP} set app.org_id = 'x'", f"{APP}: settings of its own"),
    ],
)
def test_an_injected_fault_is_detected(
    superuser: psycopg.Connection[Any], statement: str, fault: str
) -> None:
    superuser.execute(statement)
    assert fault in faults(superuser)


def test_a_new_table_with_isolation_is_accepted(superuser: psycopg.Connection[Any]) -> None:
    superuser.execute(NOTES)
    superuser.execute(ISOLATION)
    assert faults(superuser) == set()
