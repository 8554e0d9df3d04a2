"""What the serving process demands of the database: its version, role, policies and revision.

Pure SQL and file names, so that serving needs neither SQLAlchemy nor Alembic.
"""

import re
from dataclasses import dataclass
from typing import Any

import psycopg

from db import revisions, server_versions

# They hold no tenant's data; the service may insert into one and read the other.
NON_TENANT_TABLES = ("used_org_ids", "alembic_version")

# As the server prints them, without the alias that it adds.
_TENANT = "( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid)"
_SUBJECT = "( SELECT NULLIF(current_setting('app.subject'::text, true), ''::text))"
_MINE = "(id IN ( SELECT memberships.org_id FROM memberships WHERE {}))"
_OWNED = f"((memberships.role = 'owner'::text) AND (memberships.subject = {_SUBJECT}))"
# What opens a row besides the tenant's policy: {(table, command): USING}.
MEMBER_POLICIES = {
    ("memberships", "r"): f"(subject = {_SUBJECT})",
    ("idempotency_keys", "r"): f"(subject = {_SUBJECT})",
    ("organizations", "r"): _MINE.format(f"(memberships.subject = {_SUBJECT})"),
    ("organizations", "d"): _MINE.format(_OWNED),
}

# Also the role that signed in: `reset role` leads back to it.
_ROLES = """
select r.rolname, r.rolsuper, r.rolbypassrls, r.rolcreaterole, r.rolreplication,
    exists (select from pg_auth_members m where m.member = r.oid),
    exists (select from pg_class c where c.relowner = r.oid and c.relkind in ('r', 'p')),
    exists (select from pg_namespace n where n.nspowner = r.oid)
        or exists (select from pg_database d where d.datdba = r.oid)
from pg_roles r where r.rolname in (current_user, session_user)"""
_ROLE_FAULTS = (
    "is a superuser",
    "has BYPASSRLS",
    "has CREATEROLE",
    "has REPLICATION",
    "is a member of another role",
    "owns tables",
    "owns the database or a schema",
)

_TABLES = """
select c.oid, c.relname, c.relrowsecurity, c.relforcerowsecurity,
    not has_table_privilege(c.oid, 'truncate')
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'p') and n.nspname !~ '^(pg_|information_schema$)'
    and (n.nspname = 'public' or has_schema_privilege(n.oid, 'usage')
        and has_table_privilege(c.oid, 'select, insert, update, delete, truncate'))
    and not exists (select from pg_depend d
        where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
    and not c.relname = any (%s)"""

_POLICIES = """
select polrelid, polcmd::text, polroles = '{0}', pg_get_expr(polqual, polrelid),
    pg_get_expr(polwithcheck, polrelid)
from pg_policy where polpermissive"""

# An owner's rights, not the reader's, decide what these show.
_BYPASS_OBJECTS = """
select c.relname
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('v', 'm', 'f') and n.nspname !~ '^(pg_|information_schema$)'
    and has_schema_privilege(n.oid, 'usage')
    and has_any_column_privilege(c.oid, 'select, insert, update')
    and not coalesce(c.reloptions && '{security_invoker=true,security_invoker=on}', false)
    and not exists (select from pg_depend d
        where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
union all
select f.proname || '()'
from pg_proc f join pg_namespace n on n.oid = f.pronamespace
where f.prosecdef and n.nspname !~ '^(pg_|information_schema$)'
    and has_schema_privilege(n.oid, 'usage') and has_function_privilege(f.oid, 'execute')
    and not exists (select from pg_depend d
        where d.classid = 'pg_proc'::regclass and d.objid = f.oid and d.deptype = 'e')"""


@dataclass(frozen=True)
class AuditResult:
    """What was found at the first connection."""

    refusal: str | None
    warning: str | None


async def audit(connection: psycopg.AsyncConnection[Any]) -> AuditResult:
    """Say whether the connected role can be trusted with more than one tenant."""
    version = connection.info.server_version
    if version < server_versions.MINIMUM:
        return AuditResult(
            f"PostgreSQL {version // 10_000} is too old: 15 or newer is needed", None
        )
    # What a later release brought was examined by it; this one must not end before it is replaced.
    ahead = (await revisions.current(connection) or "") > revisions.head()
    refusal = (
        await _role(connection)
        or await _tables(connection, ahead)
        or await _bypass_object(connection)
    )
    return AuditResult(refusal, None if refusal else server_versions.floor_warning(version))


async def _role(connection: psycopg.AsyncConnection[Any]) -> str | None:
    roles = await connection.execute(_ROLES)
    for role, *faults in await roles.fetchall():
        for is_so, reason in zip(faults, _ROLE_FAULTS, strict=True):
            if is_so:
                return f"the role {role} could bypass the policies: it {reason}"
    return None


async def _tables(connection: psycopg.AsyncConnection[Any], ahead: bool) -> str | None:
    policies = await (await connection.execute(_POLICIES)).fetchall()
    tables = await connection.execute(_TABLES, (list(NON_TENANT_TABLES),))
    for oid, table, enabled, forced, not_truncated in await tables.fetchall():
        permitted = [_kind(table, ahead, *policy[1:]) for policy in policies if policy[0] == oid]
        for is_so, what in (
            (enabled, "ROW LEVEL SECURITY is not enabled"),
            (forced, "ROW LEVEL SECURITY is not forced"),
            (permitted.count("tenant") == 1, "there is no policy that confines it to a tenant"),
            (None not in permitted, "a policy opens more than the tenant's rows"),
            (not_truncated, "the service may truncate it"),
        ):
            if not is_so:
                return f"the table {table} is open to other tenants: {what}"
    return None


def _kind(
    table: str, ahead: bool, command: str, for_all: bool, using: str, check: str | None
) -> str | None:
    """Return "tenant" or "member" for a policy that is known, None for one that opens too much.

    Of a release ahead it may be another, as long as it asks what is bound.
    """
    using, check = _plain(using), _plain(check)
    column = "id" if table == "organizations" else "org_id"
    if for_all and command == "*" and using == check == f"({column} = {_TENANT})":
        return "tenant"
    if for_all and check == "" and MEMBER_POLICIES.get((table, command)) == using:
        return "member"
    if ahead and all("current_setting('app." in part for part in (using, check) if part):
        return "later"
    return None


def _plain(expression: str | None) -> str:
    return re.sub(r"\s+", " ", (expression or "").replace(' AS "nullif"', ""))


async def _bypass_object(connection: psycopg.AsyncConnection[Any]) -> str | None:
    row = await (await connection.execute(_BYPASS_OBJECTS)).fetchone()
    return f"{row[0]} shows rows with its owner's rights, not the service's" if row else None
