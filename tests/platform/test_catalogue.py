"""What the catalogue must say of every table, those included that nobody has written yet."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from evidence.certificate import catalogue
from openapi import contract
from tests.platform.fix_postgres import Database, Postgres

APP = "covenant_app"
# Written out, since the certificate derives them from the contract.
GRANTS = {
    "table alembic_version": {"SELECT"},
    "table organizations": {"SELECT", "INSERT", "DELETE"},
    "table memberships": {"SELECT", "INSERT"},
    "table projects": {"SELECT", "INSERT", "DELETE"},
    "table idempotency_keys": {"SELECT", "INSERT", "DELETE"},
    "table used_org_ids": {"INSERT"},
    "sequence guest_number": {"USAGE"},
    "schema public": {"USAGE"},
    "database to PUBLIC": {"CONNECT"},
}


def faults(connection: psycopg.Connection[Any]) -> set[str]:
    return catalogue.issues(connection, GRANTS)


@pytest.fixture(scope="module")
def empty(postgres: Postgres) -> Database:
    """No rows, since a fault may be a key that the rows of other tests would break."""
    return postgres.database()


@pytest.fixture
def owner(empty: Database) -> Iterator[psycopg.Connection[Any]]:
    """A superuser's connection whose changes are never committed."""
    with psycopg.connect(empty.superuser_url) as connection:
        connection.execute("set local lock_timeout = '5s'")
        yield connection
        connection.rollback()


def test_the_grants_are_those_that_the_operations_need() -> None:
    assert catalogue.required_privileges(contract.load()) == GRANTS


def test_every_table_keeps_every_rule(owner: psycopg.Connection[Any]) -> None:
    assert faults(owner) == set()


NOTES = """create table notes (org_id uuid not null references organizations on delete cascade,
    id uuid not null, text text, primary key (org_id, id))"""
GUARD = """alter table notes enable row level security; alter table notes force row level security;
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
    ("planted", "fault"),
    [
        (
            "alter table projects disable row level security",
            "projects: row-level security is not enabled",
        ),
        (
            "alter table projects no force row level security",
            "projects: row-level security is not forced",
        ),
        (
            "drop policy tenant_isolation on projects",
            "projects: policy tenant_isolation is missing",
        ),
        (NOTES, "notes: row-level security is not enabled"),
        (NOTES, "notes: row-level security is not forced"),
        (NOTES, "notes: policy tenant_isolation is missing"),
        (
            f"{NOTES}; {GUARD}; alter table notes no force row level security",
            "notes: row-level security is not forced",
        ),
        (
            f"create schema apart; {NOTES.replace('notes', 'apart.notes')}",
            "notes: row-level security is not enabled",
        ),
        (
            "create table secrets (id uuid primary key)",
            "secrets: column org_id uuid not null is missing",
        ),
        (
            f"{POLICY} using ({BOUND}) with check (true)",
            "projects: policy tenant_isolation has an unexpected expression",
        ),
        (
            f"{POLICY} using ({BOUND})",
            "projects: policy tenant_isolation has an unexpected expression",
        ),
        (
            f"{POLICY} using ({BOUND} or current_setting('app.org_id', true) is null) "
            f"with check ({BOUND} or current_setting('app.org_id', true) is null)",
            "projects: policy tenant_isolation has an unexpected expression",
        ),
        (f"{POLICY} for select using ({BOUND})", "projects: policy tenant_isolation is missing"),
        (
            f"{POLICY} to {APP} using ({BOUND}) with check ({BOUND})",
            "projects: policy tenant_isolation is not permissive for every role",
        ),
        (
            f"{POLICY} as restrictive using ({BOUND}) with check ({BOUND})",
            "projects: policy tenant_isolation is not permissive for every role",
        ),
        (
            "create policy more on projects for select using (true)",
            "projects: unknown policy more",
        ),
        (
            "drop policy member_read on memberships; "
            "create policy member_read on memberships for select using (true)",
            "memberships: unknown policy member_read",
        ),
        (
            "drop policy owner_delete on organizations",
            "organizations: policy owner_delete is missing",
        ),
        (IMMUTABLE, "immutable function org in a policy bypasses the policies"),
        (f"grant update on projects to {APP}", "table projects: UPDATE is granted but not needed"),
        (
            f"grant truncate on projects to {APP}",
            "table projects: TRUNCATE is granted but not needed",
        ),
        (
            f"grant references on projects to {APP}",
            "table projects: REFERENCES is granted but not needed",
        ),
        (
            f"grant trigger on projects to {APP}",
            "table projects: TRIGGER is granted but not needed",
        ),
        (
            f"grant update (name) on projects to {APP}",
            "column projects.name: UPDATE is granted but not needed",
        ),
        (
            "grant select on projects to public",
            "table projects to PUBLIC: SELECT is granted but not needed",
        ),
        (
            f"grant select on used_org_ids to {APP}",
            "table used_org_ids: SELECT is granted but not needed",
        ),
        (
            f"grant insert on alembic_version to {APP}",
            "table alembic_version: INSERT is granted but not needed",
        ),
        (
            f"revoke delete on projects from {APP}",
            "table projects: DELETE is needed but not granted",
        ),
        (
            f"grant select on projects to {APP} with grant option",
            "table projects: SELECT is granted with grant option",
        ),
        (
            f"grant select on guest_number to {APP}",
            "sequence guest_number: SELECT is granted but not needed",
        ),
        (
            f"grant create on schema public to {APP}",
            "schema public: CREATE is granted but not needed",
        ),
        (
            "grant create on schema public to public",
            "schema public to PUBLIC: CREATE is granted but not needed",
        ),
        (
            f"alter default privileges grant select on tables to {APP}",
            "default of r: SELECT is granted but not needed",
        ),
        (
            f"do $$ begin execute format('grant temporary on database %I to {APP}', "
            "current_database()); end $$",
            "database: TEMPORARY is granted but not needed",
        ),
        (
            "create function public.f() returns int language sql as 'select 1'",
            "function f to PUBLIC: EXECUTE is granted but not needed",
        ),
        (
            "create function public.f() returns int language sql security definer as 'select 1'",
            "security definer function f bypasses the policies",
        ),
        ("create view v as select * from projects", "view v bypasses the policies"),
        (
            "create materialized view m as select * from projects",
            "materialized view m bypasses the policies",
        ),
        (
            "create rule r as on delete to projects do also delete from memberships",
            "rule r bypasses the policies",
        ),
        (
            f"{NOTES.replace(', primary key (org_id, id)', '')} partition by list (org_id); "
            f"{GUARD}; create table part partition of notes default",
            "part: row-level security is not enabled",
        ),
        ("create table child () inherits (projects)", "child: row-level security is not enabled"),
        (
            "alter table projects add unique (name)",
            "projects: unique index projects_name_key does not start with the tenant",
        ),
        (
            "create unique index lower_name on projects (lower(name), org_id)",
            "projects: unique index lower_name does not start with the tenant",
        ),
        (
            f"{NOTES.replace('(org_id, id)', '(id, org_id)')}",
            "notes: unique index notes_pkey does not start with the tenant",
        ),
        (
            "alter table projects add unique (org_id, id, name); create unique index on projects "
            "(id); create table tasks (org_id uuid not null, id uuid not null, project uuid "
            "constraint of_project references projects (id), primary key (org_id, id))",
            "tasks: foreign key of_project crosses tenants",
        ),
        (
            "create table tasks (org_id uuid not null, id uuid not null, project uuid, "
            "primary key (org_id, id), constraint swapped foreign key (project, org_id) "
            "references projects (org_id, id))",
            "tasks: foreign key swapped crosses tenants",
        ),
        (f"alter role {APP} superuser", f"{APP}: is a superuser"),
        (f"alter role {APP} bypassrls", f"{APP}: has BYPASSRLS"),
        (f"alter role {APP} createrole", f"{APP}: has CREATEROLE"),
        (f"alter role {APP} createdb", f"{APP}: has CREATEDB"),
        (f"alter role {APP} replication", f"{APP}: has REPLICATION"),
        (f"grant covenant_owner to {APP}", f"{APP}: is a member of a role"),
        (f"grant pg_read_all_data to {APP}", f"{APP}: is a member of a role"),
        (f"alter table used_org_ids owner to {APP}", f"{APP}: owns an object"),
        (f"alter role {APP} set app.org_id = 'x'", f"{APP}: has role settings"),
    ],
)
def test_a_fault_that_is_planted_is_found(
    owner: psycopg.Connection[Any], planted: str, fault: str
) -> None:
    owner.execute(planted)
    assert fault in faults(owner)


def test_a_new_table_that_keeps_the_rules_is_accepted(owner: psycopg.Connection[Any]) -> None:
    owner.execute(NOTES)
    owner.execute(GUARD)
    assert faults(owner) == set()
