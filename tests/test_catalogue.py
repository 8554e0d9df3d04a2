"""What the catalogue must say of every table, those included that nobody has written yet."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from db import schema
from tests.fix_postgres import Database, Postgres

APP = "covenant_app"
OURS = "n.nspname !~ '^(pg_|information_schema$)'"
TENANT = "( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid)"
SUBJECT = "( SELECT NULLIF(current_setting('app.subject'::text, true), ''::text))"
MEMBER = f"(memberships.subject = {SUBJECT})"
ORGS_OF = "(id IN ( SELECT memberships.org_id FROM memberships WHERE {}))"

OTHER_POLICIES = {
    ("memberships", "member_read", "SELECT", f"(subject = {SUBJECT})"),
    ("organizations", "member_read", "SELECT", ORGS_OF.format(MEMBER)),
    (
        "organizations",
        "owner_delete",
        "DELETE",
        ORGS_OF.format(f"((memberships.role = 'owner'::text) AND {MEMBER})"),
    ),
}
GRANTS = {
    "table alembic_version": {"SELECT"},
    "table organizations": {"SELECT", "INSERT", "DELETE"},
    "table memberships": {"SELECT", "INSERT"},
    "table projects": {"SELECT", "INSERT", "DELETE"},
    "table used_org_ids": {"INSERT"},
    "sequence guest_number": {"USAGE"},
    "schema public": {"USAGE"},
    "database to everybody": {"CONNECT"},
}

COLUMNS = f"""
select c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull
from pg_class c join pg_namespace n on n.oid = c.relnamespace
join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
where c.relkind in ('r', 'p', 'f') and {OURS}"""
SECURITY = f"""
select c.relname, c.relrowsecurity, c.relforcerowsecurity
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'p', 'f') and {OURS}"""
POLICIES = """
select tablename, policyname, permissive, roles::text[], cmd, qual, with_check from pg_policies"""
# One row per privilege that the role, or everybody, was given.
PRIVILEGES = f"""
with objects as (
    select case c.relkind when 'S' then 'sequence ' else 'table ' end || c.relname as what,
        coalesce(c.relacl, acldefault(case c.relkind when 'S' then 's' else 'r' end::"char",
            c.relowner)) as acl
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'p', 'v', 'm', 'f', 'S') and {OURS}
    union all
    select 'column ' || c.relname || '.' || a.attname, a.attacl
    from pg_attribute a join pg_class c on c.oid = a.attrelid
    join pg_namespace n on n.oid = c.relnamespace where {OURS}
    union all
    select 'function ' || f.proname, coalesce(f.proacl, acldefault('f', f.proowner))
    from pg_proc f join pg_namespace n on n.oid = f.pronamespace where {OURS}
    union all
    select 'schema ' || n.nspname, coalesce(n.nspacl, acldefault('n', n.nspowner))
    from pg_namespace n where {OURS}
    union all
    select 'database', coalesce(d.datacl, acldefault('d', d.datdba))
    from pg_database d where d.datname = current_database()
    union all
    select 'default of ' || defaclobjtype::text, defaclacl from pg_default_acl
)
select what || case grantee when 0 then ' to everybody' else '' end, privilege_type, is_grantable
from objects, aclexplode(acl)
where grantee = 0 or grantee = '{APP}'::regrole"""
KEYS = f"""
select c.relname, x.indexrelid::regclass::text, a.attname
from pg_index x join pg_class c on c.oid = x.indrelid
join pg_namespace n on n.oid = c.relnamespace
left join pg_attribute a on a.attrelid = c.oid and a.attnum = x.indkey[0]
where (x.indisunique or x.indisexclusion) and {OURS}"""
REFERENCES = f"""
select c.relname, k.conname, k.confrelid::regclass::text,
    array(select a.attname::text from unnest(k.conkey) with ordinality u(n, i)
        join pg_attribute a on a.attrelid = k.conrelid and a.attnum = u.n order by i),
    array(select a.attname::text from unnest(k.confkey) with ordinality u(n, i)
        join pg_attribute a on a.attrelid = k.confrelid and a.attnum = u.n order by i)
from pg_constraint k join pg_class c on c.oid = k.conrelid
join pg_namespace n on n.oid = c.relnamespace
where k.contype = 'f' and k.conparentid = 0 and {OURS}"""
AROUND = f"""
select case c.relkind when 'v' then 'view ' when 'm' then 'materialized view '
    else 'foreign table ' end || c.relname
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('v', 'm', 'f') and {OURS}
    and not (c.relkind = 'v' and coalesce('security_invoker=true' = any (c.reloptions), false))
union all
select 'security definer function ' || f.proname
from pg_proc f join pg_namespace n on n.oid = f.pronamespace where f.prosecdef and {OURS}
union all
select 'rule ' || r.rulename
from pg_rewrite r join pg_class c on c.oid = r.ev_class
join pg_namespace n on n.oid = c.relnamespace where r.rulename <> '_RETURN' and {OURS}
union all
select 'immutable function ' || f.proname || ' in a policy'
from pg_depend d join pg_proc f on f.oid = d.refobjid
where d.classid = 'pg_policy'::regclass and d.refclassid = 'pg_proc'::regclass
    and f.provolatile = 'i'"""
ROLE = f"""
select x.what from pg_roles r, lateral (values
    (r.rolsuper, 'superuser'), (r.rolbypassrls, 'bypassrls'), (r.rolcreaterole, 'createrole'),
    (r.rolcreatedb, 'createdb'), (r.rolreplication, 'replication'),
    (exists (select from pg_auth_members m where m.member = r.oid), 'member of a role'),
    (exists (select from pg_shdepend s where s.refobjid = r.oid and s.deptype = 'o'
        and s.dbid in (0, (select oid from pg_database where datname = current_database()))),
        'owner of something'),
    (exists (select from pg_db_role_setting s where s.setrole = r.oid), 'settings of its own')
) x(is_so, what) where r.rolname = '{APP}' and x.is_so"""


def faults(connection: psycopg.Connection[Any]) -> set[str]:
    """Return every way in which the schema could open a tenant's rows to another, a line each."""

    def rows(query: str) -> list[Any]:
        return connection.execute(query).fetchall()

    tenants = {table for table, *_ in rows(SECURITY)} - set(schema.OPEN_TABLES)
    return {
        *_rows_are_secured(tenants, rows(SECURITY), rows(COLUMNS)),
        *_policies(tenants, rows(POLICIES)),
        *_grants(rows(PRIVILEGES)),
        *_keys(tenants, rows(KEYS), rows(REFERENCES)),
        *(f"{what} is around the policies" for (what,) in rows(AROUND)),
        *(f"{APP}: {what}" for (what,) in rows(ROLE)),
    }


def _rows_are_secured(tenants: set[str], tables: list[Any], columns: list[Any]) -> Iterator[str]:
    typed = {(table, column): (kind, filled) for table, column, kind, filled in columns}
    for table, enabled, forced in tables:
        if table in tenants:
            if not enabled:
                yield f"{table}: not enabled"
            if not forced:
                yield f"{table}: not forced"
            if typed.get((table, _tenant_column(table))) != ("uuid", True):
                yield f"{table}: no {_tenant_column(table)} uuid not null"


def _policies(tenants: set[str], policies: list[Any]) -> Iterator[str]:
    confined = set()
    for table, name, permissive, roles, command, using, check in policies:
        using, check = _plain(using), _plain(check)
        if roles != ["public"] or permissive != "PERMISSIVE":
            yield f"{table}: policy {name} is not a permissive one for every role"
        elif (name, command) == ("tenant_isolation", "ALL"):
            if using == check == f"({_tenant_column(table)} = {TENANT})":
                confined.add(table)
            else:
                yield f"{table}: tenant_isolation has another expression"
        elif check or (table, name, command, using) not in OTHER_POLICIES:
            yield f"{table}: policy {name} is not one of those that are known"
    for table in tenants - confined:
        yield f"{table}: no tenant_isolation"
    for table, name, *_ in OTHER_POLICIES - {(p[0], p[1], p[4], _plain(p[5])) for p in policies}:
        yield f"{table}: no {name}"


def _grants(privileges: list[Any]) -> Iterator[str]:
    granted = {(what, privilege) for what, privilege, _ in privileges}
    needed = {(what, privilege) for what, some in GRANTS.items() for privilege in some}
    yield from (f"{what}: {privilege} is granted" for what, privilege in granted - needed)
    yield from (f"{what}: {privilege} is missing" for what, privilege in needed - granted)
    yield from (f"{what}: {p} can be passed on" for what, p, grantable in privileges if grantable)


def _keys(tenants: set[str], keys: list[Any], references: list[Any]) -> Iterator[str]:
    for table, index, first in keys:
        if table in tenants and first != _tenant_column(table):
            yield f"{table}: unique {index} is an existence oracle"
    for table, name, target, columns, targets in references:
        if table in tenants or target in tenants:
            ours = columns[0] == _tenant_column(table), targets[0] == _tenant_column(target)
            if ours != (True, True) or (target != "organizations" and len(columns) < 2):
                yield f"{table}: reference {name} crosses tenants"


def _tenant_column(table: str) -> str:
    return "id" if table == "organizations" else "org_id"


def _plain(expression: str | None) -> str:
    return " ".join((expression or "").replace(' AS "nullif"', "").split())


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
        ("alter table projects disable row level security", "projects: not enabled"),
        ("alter table projects no force row level security", "projects: not forced"),
        ("drop policy tenant_isolation on projects", "projects: no tenant_isolation"),
        (NOTES, "notes: not enabled"),
        (NOTES, "notes: not forced"),
        (NOTES, "notes: no tenant_isolation"),
        (f"{NOTES}; {GUARD}; alter table notes no force row level security", "notes: not forced"),
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
            f"{GUARD}; create table part partition of notes default",
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
def test_a_fault_that_is_planted_is_found(
    owner: psycopg.Connection[Any], planted: str, fault: str
) -> None:
    owner.execute(planted)
    assert fault in faults(owner)


def test_a_new_table_that_keeps_the_rules_is_accepted(owner: psycopg.Connection[Any]) -> None:
    owner.execute(NOTES)
    owner.execute(GUARD)
    assert faults(owner) == set()
