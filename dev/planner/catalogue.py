"""Reads tables from the PostgreSQL catalogue: the database's, and the contract's.

The contract's tables are created in a schema that is rolled back. The same server then prints both
sides, so they compare as text and no SQL is parsed.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import psycopg
from psycopg import sql

from db import roles
from db.expected_tables import PRIVILEGES
from dev.planner import ddl
from openapi.tables import Table

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


class ColumnState(NamedTuple):
    """A column, as the server prints it."""

    type: str
    is_not_null: bool
    default: str | None


@dataclass(frozen=True)
class TableState:
    """A table: its columns, constraints and indexes by name, as the server prints them.

    The definition of an index is what follows its name, such as `UNIQUE btree (org_id, …)`. It is
    None for an invalid index, which a failed concurrent build leaves behind.
    """

    columns: dict[str, ColumnState] = field(default_factory=dict)
    constraints: dict[str, str] = field(default_factory=dict)
    indexes: dict[str, str | None] = field(default_factory=dict)
    grants: set[str] = field(default_factory=set)


@contextmanager
def rolled_back_connection(url: str) -> Iterator[psycopg.Connection[Any]]:
    """Yield a connection to `url` in a transaction that is rolled back. Raises `psycopg.Error`."""
    with psycopg.connect(url) as connection:
        connection.execute("set local lock_timeout = '2s'")
        try:
            yield connection
        finally:
            connection.rollback()


def rename_columns(
    connection: psycopg.Connection[Any], tables: Iterable[Table]
) -> dict[str, dict[str, str]]:
    """Apply the contract's column renames that are pending, and return {table: {old: new}}."""
    renames: dict[str, dict[str, str]] = {}
    existing = current_tables(connection)
    for table in tables:
        columns = existing[table.name].columns if table.name in existing else {}
        for new, old in table.renamed.items():
            if old in columns and new not in columns:
                connection.execute(
                    sql.SQL("alter table public.{} rename column {} to {}").format(
                        *map(sql.Identifier, (table.name, old, new))
                    )
                )
                renames.setdefault(table.name, {})[old] = new
    return renames


def current_tables(connection: psycopg.Connection[Any]) -> dict[str, TableState]:
    """Return the tables of the database by name."""
    return _read_schema(connection, "public")


def contract_tables(
    connection: psycopg.Connection[Any],
    tables: Mapping[str, Table],
    grants: Mapping[str, Sequence[str]],
) -> dict[str, TableState]:
    """Return the tables of the contract by name, from a schema that this creates for them."""
    connection.execute(f"create schema {_SCHEMA}")
    connection.execute(f"set local search_path = {_SCHEMA}")
    connection.execute("create table organizations (id uuid primary key)")
    for change in ddl.create_tables(ddl.in_dependency_order(tables), (), grants):
        for statement in change.upgrade:
            connection.execute(statement.encode())
    created = _read_schema(connection, _SCHEMA)
    return {name: created[name] for name in tables}


def _read_schema(connection: psycopg.Connection[Any], schema: str) -> dict[str, TableState]:
    connection.execute(f"set local search_path = {schema}".encode())
    tables: dict[str, TableState] = {}
    for table, column, *state in connection.execute(_COLUMNS):
        tables.setdefault(table, TableState()).columns[column] = ColumnState(*state)
    for table, name, definition in connection.execute(_CONSTRAINTS):
        tables[table].constraints[name] = definition.removesuffix(" NOT VALID")
    for table, name, definition, is_valid in connection.execute(_INDEXES):
        unique = "UNIQUE " if definition.startswith("CREATE UNIQUE") else ""
        definition = unique + definition.partition(" USING ")[2]
        tables[table].indexes[name] = definition if is_valid else None
    for table, privilege in connection.execute(_GRANTS, (list(PRIVILEGES),)):
        tables[table].grants.add(privilege)
    return tables
