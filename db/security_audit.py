"""Audits the database before the service serves from it: server version, role and policies.

Uses SQL and the names of the revision files only, so serving needs neither SQLAlchemy nor Alembic.
"""

import os
import re
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, NamedTuple

import psycopg

from db import revisions, server_versions

# `host:port` of the server that dev.local started. Its version is that of the wheel, so the user
# could do nothing about the warning. Only this one server is exempt.
EMBEDDED_SERVER = "EMBEDDED_POSTGRESQL"

# Tables without tenant data: the service may insert into the first and read the second.
NON_TENANT_TABLES = ("used_org_ids", "alembic_version")

# Policy expressions as the server prints them, without the alias that it adds.
_TENANT = "( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid)"
_SUBJECT = "( SELECT NULLIF(current_setting('app.subject'::text, true), ''::text))"
_MINE = "(id IN ( SELECT memberships.org_id FROM memberships WHERE {}))"
_OWNED = f"((memberships.role = 'owner'::text) AND (memberships.subject = {_SUBJECT}))"
# The policies that allow access besides the tenant's: {(table, command): USING}.
MEMBER_POLICIES = {
    ("memberships", "r"): f"(subject = {_SUBJECT})",
    ("idempotency_keys", "r"): f"(subject = {_SUBJECT})",
    ("organizations", "r"): _MINE.format(f"(memberships.subject = {_SUBJECT})"),
    ("organizations", "d"): _MINE.format(_OWNED),
}

# Includes the session user, because `reset role` returns to it.
_ROLES = """
select r.rolname, r.rolsuper, r.rolbypassrls, r.rolcreaterole, r.rolreplication,
    exists (select from pg_auth_members m where m.member = r.oid),
    exists (select from pg_class c where c.relowner = r.oid and c.relkind in ('r', 'p')),
    exists (select from pg_namespace n where n.nspowner = r.oid)
        or exists (select from pg_database d where d.datdba = r.oid)
from pg_roles r where r.rolname in (current_user, session_user)"""
_ROLE_VIOLATIONS = (
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

# Views, foreign tables and functions that run with their owner's privileges, not the reader's.
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


class PolicyKind(Enum):
    """What a policy is for."""

    TENANT = auto()
    MEMBER = auto()
    NEWER_RELEASE = auto()  # unknown to this release, but bound to the tenant or subject


class _Policy(NamedTuple):
    """A row of `_POLICIES`."""

    table_oid: int
    command: str
    is_for_all_roles: bool
    using: str | None
    check: str | None


@dataclass(frozen=True)
class AuditResult:
    """The first violation, which keeps the service from serving, or else a warning."""

    violation: str | None = None
    warning: str | None = None


async def audit(connection: psycopg.AsyncConnection[Any]) -> AuditResult:
    """Return whether the connected role can serve several tenants from this database.

    Raises `psycopg.Error`.
    """
    info = connection.info
    if reason := server_versions.unsupported_reason(info.server_version):
        return AuditResult(violation=reason)
    # The newer release has audited its own schema. This one must keep serving until it is replaced.
    is_ahead = revisions.history().is_ahead(await revisions.applied(connection))
    violation = (
        await _role_violation(connection)
        or await _table_violation(connection, is_ahead=is_ahead)
        or await _bypass_violation(connection)
    )
    if violation:
        return AuditResult(violation=violation)
    if os.environ.get(EMBEDDED_SERVER) == f"{info.host}:{info.port}":
        return AuditResult()
    return AuditResult(warning=server_versions.floor_warning(info.server_version))


async def _role_violation(connection: psycopg.AsyncConnection[Any]) -> str | None:
    roles = await connection.execute(_ROLES)
    for role, *flags in await roles.fetchall():
        for is_set, violation in zip(flags, _ROLE_VIOLATIONS, strict=True):
            if is_set:
                return f"the role {role} could bypass the policies: it {violation}"
    return None


async def _table_violation(
    connection: psycopg.AsyncConnection[Any], *, is_ahead: bool
) -> str | None:
    rows = await (await connection.execute(_POLICIES)).fetchall()
    policies = [_Policy(*row) for row in rows]
    tables = await connection.execute(_TABLES, (list(NON_TENANT_TABLES),))
    for oid, table, is_enabled, is_forced, cannot_truncate in await tables.fetchall():
        kinds = [_kind(table, p, is_ahead=is_ahead) for p in policies if p.table_oid == oid]
        for is_met, violation in (
            (is_enabled, "ROW LEVEL SECURITY is not enabled"),
            (is_forced, "ROW LEVEL SECURITY is not forced"),
            (
                kinds.count(PolicyKind.TENANT) == 1,
                "there is no policy that confines it to a tenant",
            ),
            (None not in kinds, "a policy allows more than the tenant's rows"),
            (cannot_truncate, "the service may truncate it"),
        ):
            if not is_met:
                return f"the table {table} is open to other tenants: {violation}"
    return None


def _kind(table: str, policy: _Policy, *, is_ahead: bool) -> PolicyKind | None:
    """Return the kind of a policy, or None if it allows too much.

    A database ahead of this release may have policies that the release does not know, as long as
    each of their expressions reads a bound setting.
    """
    using, check = _normalized(policy.using), _normalized(policy.check)
    column = "id" if table == "organizations" else "org_id"
    is_tenants = policy.command == "*" and using == check == f"({column} = {_TENANT})"
    is_members = check == "" and MEMBER_POLICIES.get((table, policy.command)) == using
    if policy.is_for_all_roles and is_tenants:
        return PolicyKind.TENANT
    if policy.is_for_all_roles and is_members:
        return PolicyKind.MEMBER
    if is_ahead and all("current_setting('app." in part for part in (using, check) if part):
        return PolicyKind.NEWER_RELEASE
    return None


def _normalized(expression: str | None) -> str:
    return re.sub(r"\s+", " ", (expression or "").replace(' AS "nullif"', ""))


async def _bypass_violation(connection: psycopg.AsyncConnection[Any]) -> str | None:
    row = await (await connection.execute(_BYPASS_OBJECTS)).fetchone()
    return f"{row[0]} has its owner's access to rows, not the service's" if row else None
