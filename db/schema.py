"""What the serving process demands of the database: its version, role, policies and revision.

Pure SQL and file names, so that serving needs neither SQLAlchemy nor Alembic.
"""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import psycopg

MINIMUM = 150_000
# Below these a client may read rows that a policy hides (CVE-2026-120154).
FLOORS = {15: 150_020, 16: 160_016, 17: 170_012, 18: 180_007}
# They hold no tenant's data; the service may insert into one and read the other.
OPEN_TABLES = ("used_org_ids", "alembic_version")

TENANT = "( SELECT (NULLIF(current_setting('app.org_id'::text, true), ''::text))::uuid AS \"nullif\")"

_BYPASS = """
select rolname, rolsuper, rolbypassrls,
    exists (select from pg_auth_members m where m.member = r.oid),
    exists (select from pg_class c where c.relowner = r.oid and c.relkind in ('r', 'p'))
from pg_roles r where rolname = current_user"""

_TABLES = """
select c.relname, c.relrowsecurity, c.relforcerowsecurity,
    (select count(*) from pg_policy p where p.polrelid = c.oid and p.polcmd = '*'
        and p.polpermissive and p.polroles = '{0}'
        and pg_get_expr(p.polqual, c.oid) = pg_get_expr(p.polwithcheck, c.oid)
        and replace(pg_get_expr(p.polqual, c.oid), ' AS "nullif"', '') in (%s, %s))
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where n.nspname = 'public' and c.relkind in ('r', 'p') and not c.relname = any (%s)"""


@dataclass(frozen=True)
class Finding:
    """What was found at the first connection."""

    refusal: str | None
    warning: str | None


@cache
def head() -> str:
    """Return the newest revision that this release knows: the greatest of NNNN_name.py."""
    versions = Path(__file__).parent / "migrations" / "versions"
    return max(m[1] for f in versions.iterdir() if (m := re.fullmatch(r"(\d{4})_\w+\.py", f.name)))


def floor_warning(version: int) -> str | None:
    """Return why a server of `version` (server_version_num) is below the security floor."""
    floor = FLOORS.get(version // 10_000)
    if floor is None or version >= floor:
        return None
    name = f"PostgreSQL {version // 10_000}.{version % 10_000}"
    return f"{name} is below the security floor {floor // 10_000}.{floor % 10_000}: upgrade it"


async def examine(connection: psycopg.AsyncConnection[Any]) -> Finding:
    """Say whether the connected role can be trusted with more than one tenant."""
    version = connection.info.server_version
    if version < MINIMUM:
        return Finding(f"PostgreSQL {version // 10_000} is too old: 15 or newer is needed", None)
    row = await (await connection.execute(_BYPASS)).fetchone()
    assert row is not None
    role, superuser, bypass, member, owner = row
    for is_so, reason in (
        (superuser, "is a superuser"),
        (bypass, "has BYPASSRLS"),
        (member, "is a member of another role"),
        (owner, "owns tables"),
    ):
        if is_so:
            return Finding(f"the role {role} could bypass the policies: it {reason}", None)
    expected = TENANT.replace(' AS "nullif"', "")
    tables = await connection.execute(
        _TABLES, (f"(org_id = {expected})", f"(id = {expected})", list(OPEN_TABLES))
    )
    for table, enabled, forced, policies in await tables.fetchall():
        for is_so, what in (
            (enabled, "ROW LEVEL SECURITY is not enabled"),
            (forced, "ROW LEVEL SECURITY is not forced"),
            (policies == 1, "there is no policy that confines it to a tenant"),
        ):
            if not is_so:
                return Finding(f"the table {table} is open to other tenants: {what}", None)
    return Finding(None, floor_warning(version))


async def revision(connection: psycopg.AsyncConnection[Any]) -> str | None:
    """Return the revision that the database is at, None before the first."""
    try:
        row = await (
            await connection.execute("select version_num from public.alembic_version")
        ).fetchone()
    except (psycopg.errors.UndefinedTable, psycopg.errors.InsufficientPrivilege):
        return None
    return str(row[0]) if row else None
