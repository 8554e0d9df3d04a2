"""What a request did to the rows: hashes of every tenant table, read as superuser."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from db.security_audit import NON_TENANT_TABLES

_TABLES = """
select n.nspname, c.relname, min(a.attname::text)
from pg_class c join pg_namespace n on n.oid = c.relnamespace
join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    and a.atttypid = 'uuid'::regtype
    and a.attname = case c.relname when 'organizations' then 'id' else 'org_id' end
where c.relkind = 'r' and n.nspname !~ '^(pg_|information_schema$)' and not c.relname = any (%s)
group by 1, 2 order by 1, 2"""

# A whole row, from its JSON.
INSERT = sql.SQL("insert into {0} select * from json_populate_record(null::{0}, %s::json)")


@dataclass(frozen=True)
class Table:
    """A table with a tenant in each row, in the column `tenant`."""

    schema: str
    name: str
    tenant: str

    @property
    def sql(self) -> sql.Identifier:
        return sql.Identifier(self.schema, self.name)


Snapshot = Mapping[str, tuple[str, str]]  # table: hash of all its rows, of those of the foreign


def tables(connection: psycopg.Connection[Any]) -> list[Table]:
    """Return every table that holds rows of tenants."""
    return [
        Table(*row) for row in connection.execute(_TABLES, (list(NON_TENANT_TABLES),)).fetchall()
    ]


def snapshot(
    connection: psycopg.Connection[Any], among: Sequence[Table], foreign: Sequence[str]
) -> Snapshot:
    """Return, by table, the hashes of all rows and of those of the tenants `foreign`.

    The hash takes in xmin, so that a row written with the values that it had counts as changed.
    """
    rows = sql.SQL("md5(coalesce(string_agg(t.h, '' order by t.h){}, ''))")
    only = rows.format(sql.SQL(" filter (where t.o = any ({}))").format(sql.Literal(list(foreign))))
    query = sql.SQL(" union all ").join(
        sql.SQL(
            "select {}, {}, {} from (select md5(_row.xmin::text || _row::text) as h,"
            " _row.{}::text as o from {} _row) t"
        ).format(
            sql.Literal(t.name), rows.format(sql.SQL("")), only, sql.Identifier(t.tenant), t.sql
        )
        for t in among
    )
    return {name: (whole, part) for name, whole, part in connection.execute(query).fetchall()}


def told(before: Snapshot, after: Snapshot, refused: bool) -> tuple[str, list[str]]:
    """Return what happened in words, and the faults: a refusal may change nothing."""
    foreign = sorted(name for name in before if before[name][1] != after[name][1])
    changed = sorted(name for name in before if before[name][0] != after[name][0])
    faults = [f"rows of another tenant changed: {', '.join(foreign)}"] if foreign else []
    if refused and changed and not foreign:
        faults.append(f"refused, and rows changed all the same: {', '.join(changed)}")
    if faults:
        return faults[0], faults
    what = f"own rows changed: {', '.join(changed)}" if changed else "no row changed"
    kept = "".join(part for _, part in after.values())
    return f"{what}; foreign rows as before ({len(after)} tables, {_short(kept)})", []


def _short(text: str) -> str:
    return f"sha256 {hashlib.sha256(text.encode()).hexdigest()[:12]}"
