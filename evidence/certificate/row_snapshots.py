"""The effect of a request on the rows: hashes of every tenant table, read as superuser."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import psycopg
from psycopg import sql

from db.security_audit import NON_TENANT_TABLES

_TENANT_TABLES = """
select n.nspname, c.relname, min(a.attname::text)
from pg_class c join pg_namespace n on n.oid = c.relnamespace
join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    and a.atttypid = 'uuid'::regtype
    and a.attname = case c.relname when 'organizations' then 'id' else 'org_id' end
where c.relkind = 'r' and n.nspname !~ '^(pg_|information_schema$)' and not c.relname = any (%s)
group by 1, 2 order by 1, 2"""

# Takes the JSON of a complete row.
INSERT_ROW = sql.SQL("insert into {0} select * from json_populate_record(null::{0}, %s::json)")


@dataclass(frozen=True)
class TenantTable:
    """A table whose column `tenant_column` contains the tenant of each row."""

    schema: str
    name: str
    tenant_column: str

    @property
    def identifier(self) -> sql.Identifier:
        return sql.Identifier(self.schema, self.name)

    @property
    def tenant(self) -> sql.Identifier:
        return sql.Identifier(self.tenant_column)


class Hashes(NamedTuple):
    """The hashes of all rows of a table, and of the rows of other tenants."""

    all_rows: str
    foreign_rows: str


Snapshot = Mapping[str, Hashes]  # by table name


def tenant_tables(connection: psycopg.Connection[Any]) -> list[TenantTable]:
    """Return every table with rows of tenants."""
    rows = connection.execute(_TENANT_TABLES, (list(NON_TENANT_TABLES),)).fetchall()
    return [TenantTable(*row) for row in rows]


def take_snapshot(
    connection: psycopg.Connection[Any], tables: Sequence[TenantTable], foreign: Sequence[str]
) -> Snapshot:
    """Return the hashes of every table; `foreign` are the organizations of the other tenants.

    The hash includes xmin, so rewriting a row with the same values counts as a change
    (https://www.postgresql.org/docs/current/ddl-system-columns.html).
    """
    digest = sql.SQL("md5(coalesce(string_agg(t.h, '' order by t.h){}, ''))")
    all_rows = digest.format(sql.SQL(""))
    condition = sql.SQL(" filter (where t.o = any ({}))").format(sql.Literal(list(foreign)))
    query = sql.SQL(" union all ").join(
        sql.SQL(
            "select {}, {}, {} from (select md5(_row.xmin::text || _row::text) as h,"
            " _row.{}::text as o from {} _row) t"
        ).format(
            sql.Literal(table.name),
            all_rows,
            digest.format(condition),
            table.tenant,
            table.identifier,
        )
        for table in tables
    )
    return {name: Hashes(*hashes) for name, *hashes in connection.execute(query).fetchall()}


def compare_snapshots(
    before: Snapshot, after: Snapshot, *, is_rejected: bool
) -> tuple[str, list[str]]:
    """Return a description of the effect, and the issues: a rejected request changes no row."""
    foreign = sorted(t for t in before if before[t].foreign_rows != after[t].foreign_rows)
    changed = sorted(t for t in before if before[t].all_rows != after[t].all_rows)
    if foreign:
        issue = f"rows of another tenant changed: {', '.join(foreign)}"
        return issue, [issue]
    if is_rejected and changed:
        issue = f"the request was rejected, but rows changed: {', '.join(changed)}"
        return issue, [issue]
    effect = f"own rows changed: {', '.join(changed)}" if changed else "no row changed"
    digest = hashlib.sha256("".join(hashes.foreign_rows for hashes in after.values()).encode())
    unchanged = f"foreign rows unchanged ({len(after)} tables, sha256 {digest.hexdigest()[:12]})"
    return f"{effect}; {unchanged}", []
