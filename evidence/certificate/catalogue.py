"""What the catalogue must say of every table, those included that nobody has written yet."""

from collections.abc import Iterator, Mapping, Set
from typing import Any

import psycopg

from db import security_audit
from openapi.contract import Contract

APP = "covenant_app"
OURS = "n.nspname !~ '^(pg_|information_schema$)'"
TENANT = "( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid)"
SUBJECT = "( SELECT NULLIF(current_setting('app.subject'::text, true), ''::text))"
MEMBER = f"(memberships.subject = {SUBJECT})"
ORGS_OF = "(id IN ( SELECT memberships.org_id FROM memberships WHERE {}))"

OTHER_POLICIES = {
    ("memberships", "member_read", "SELECT", f"(subject = {SUBJECT})"),
    ("idempotency_keys", "member_read", "SELECT", f"(subject = {SUBJECT})"),
    ("organizations", "member_read", "SELECT", ORGS_OF.format(MEMBER)),
    (
        "organizations",
        "owner_delete",
        "DELETE",
        ORGS_OF.format(f"((memberships.role = 'owner'::text) AND {MEMBER})"),
    ),
}
# What signing in, organizations and their members need; every other table is an operation's.
CORE = {
    "table alembic_version": {"SELECT"},
    "table organizations": {"SELECT", "INSERT", "DELETE"},
    "table memberships": {"SELECT", "INSERT"},
    "table idempotency_keys": {"SELECT", "INSERT", "DELETE"},
    "table used_org_ids": {"INSERT"},
    "sequence guest_number": {"USAGE"},
    "schema public": {"USAGE"},
    "database to everybody": {"CONNECT"},
}
CORE_TAGS = ("system", "auth", "orgs")
# An answer shows what was written, which needs SELECT.
PRIVILEGES_OF = {
    "get": {"SELECT"},
    "post": {"INSERT", "SELECT"},
    "put": {"INSERT", "UPDATE", "SELECT"},
    "patch": {"UPDATE", "SELECT"},
    "delete": {"DELETE", "SELECT"},
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


def needed(contract: Contract) -> dict[str, set[str]]:
    """Return the privileges that the operations need; a tag's table is named like the tag.

    So are those that `x-table.grants` names for handlers of the user's own.
    """
    grants = {what: set(some) for what, some in CORE.items()}
    for operation in contract.operations.values():
        if operation.tag not in CORE_TAGS:
            grants.setdefault(f"table {operation.tag}", set()).update(
                PRIVILEGES_OF.get(operation.method, set())
            )
    for name, table in contract.tables.items():
        if table.grants:
            grants.setdefault(f"table {name}", set()).update(map(str.upper, table.grants))
    return grants


def faults(connection: psycopg.Connection[Any], grants: Mapping[str, Set[str]]) -> set[str]:
    """Return every way in which the schema could open a tenant's rows to another, a line each.

    `grants` is what the service's role, or everybody, needs: neither less nor more.
    """

    def rows(query: str) -> list[Any]:
        return connection.execute(query).fetchall()

    tenants = {table for table, *_ in rows(SECURITY)} - set(security_audit.NON_TENANT_TABLES)
    return {
        *_rows_are_secured(tenants, rows(SECURITY), rows(COLUMNS)),
        *_policies(tenants, rows(POLICIES)),
        *_grants(rows(PRIVILEGES), grants),
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


def _grants(privileges: list[Any], grants: Mapping[str, Set[str]]) -> Iterator[str]:
    granted = {(what, privilege) for what, privilege, _ in privileges}
    due = {(what, privilege) for what, some in grants.items() for privilege in some}
    yield from (f"{what}: {privilege} is granted" for what, privilege in granted - due)
    yield from (f"{what}: {privilege} is missing" for what, privilege in due - granted)
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
