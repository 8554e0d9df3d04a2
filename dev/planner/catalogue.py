"""What PostgreSQL says of its tables, in its own words: read twice, and compared.

The tables of the contract are made for a moment, in a schema that is rolled back, so that both
sides are printed by the same server and nothing has to parse SQL.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import sql

from db import roles
from db.expected_tables import PRIVILEGES
from dev.planner import ddl
from openapi.tables import Table

INVALID = "BROKEN"  # what an index is that a build left behind
_SCHEMA = "covenant_plan"
_COLUMNS = """
select c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
    pg_get_expr(d.adbin, d.adrelid)
from pg_attribute a join pg_class c on c.oid = a.attrelid
left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
where c.relnamespace = current_schema::regnamespace and c.relkind in ('r', 'p')
    and a.attnum > 0 and not a.attisdropped
order by c.relname, a.attnum"""
_CONSTRAINTS = """
select c.relname, k.conname, pg_get_constraintdef(k.oid)
from pg_constraint k join pg_class c on c.oid = k.conrelid
where c.relnamespace = current_schema::regnamespace and k.contype in ('c', 'f', 'p', 'u')
order by c.relname, k.conname"""
_INDEXES = """
select c.relname, i.relname, pg_get_indexdef(x.indexrelid), x.indisvalid
from pg_index x join pg_class c on c.oid = x.indrelid join pg_class i on i.oid = x.indexrelid
where c.relnamespace = current_schema::regnamespace
    and not exists (select from pg_constraint k where k.conindid = x.indexrelid)
order by c.relname, i.relname"""
_GRANTS = f"""
select c.relname, lower(p.privilege_type)
from pg_class c, aclexplode(c.relacl) p
where c.relnamespace = current_schema::regnamespace and p.grantee = '{roles.APP}'::regrole
    and lower(p.privilege_type) = any (%s)"""  # noqa: S608


@dataclass(frozen=True)
class TableState:
    """One table: {column: (type, NOT NULL, default)}, and the rest by name as the server prints it.

    An index is what follows its name: `UNIQUE btree (org_id, …)`.
    """

    columns: dict[str, tuple[str, bool, str | None]] = field(default_factory=dict)
    constraints: dict[str, str] = field(default_factory=dict)
    indexes: dict[str, str] = field(default_factory=dict)
    grants: set[str] = field(default_factory=set)


@contextmanager
def scratch(url: str) -> Iterator[psycopg.Connection[Any]]:
    """Yield a connection of which nothing remains."""
    with psycopg.connect(url) as connection:
        connection.execute("set local lock_timeout = '2s'")
        try:
            yield connection
        finally:
            connection.rollback()


def rename(
    connection: psycopg.Connection[Any], tables: Iterable[Table]
) -> dict[str, dict[str, str]]:
    """Rename the columns that the contract calls otherwise now; {table: {old: new}}."""
    found: dict[str, dict[str, str]] = {}
    known = current(connection)
    for table in tables:
        columns = known[table.name].columns if table.name in known else {}
        for new, old in table.renamed.items():
            if old in columns and new not in columns:
                connection.execute(
                    sql.SQL("alter table public.{} rename column {} to {}").format(
                        *map(sql.Identifier, (table.name, old, new))
                    )
                )
                found.setdefault(table.name, {})[old] = new
    return found


def current(connection: psycopg.Connection[Any]) -> dict[str, TableState]:
    """Return the tables that there are."""
    return _read(connection, "public")


def wanted(
    connection: psycopg.Connection[Any],
    tables: Mapping[str, Table],
    grants: Mapping[str, Sequence[str]],
) -> dict[str, TableState]:
    """Return the tables of the contract, as they would be."""
    connection.execute(f"create schema {_SCHEMA}")
    connection.execute(f"set local search_path = {_SCHEMA}")
    connection.execute("create table organizations (id uuid primary key)")
    for _, statements, _ in ddl.create(ddl.tables_in_order(tables), (), grants):
        for statement in statements:
            connection.execute(statement.encode())
    found = _read(connection, _SCHEMA)
    return {name: found[name] for name in tables}


def _read(connection: psycopg.Connection[Any], schema: str) -> dict[str, TableState]:
    connection.execute(f"set local search_path = {schema}".encode())
    found: dict[str, TableState] = {}
    for table, column, *facts in connection.execute(_COLUMNS):
        kind, filled, default = facts
        found.setdefault(table, TableState()).columns[column] = (kind, filled, default)
    for table, name, definition in connection.execute(_CONSTRAINTS):
        found[table].constraints[name] = definition.removesuffix(" NOT VALID")
    for table, name, definition, is_valid in connection.execute(_INDEXES):
        unique = "UNIQUE " if definition.startswith("CREATE UNIQUE") else ""
        printed = unique + definition.partition(" USING ")[2]
        found[table].indexes[name] = printed if is_valid else INVALID
    for table, privilege in connection.execute(_GRANTS, (list(PRIVILEGES),)):
        found[table].grants.add(privilege)
    return found
