"""SQL that creates, reads, changes and deletes rows of contract tables, written once per operation.

Identifiers come from the contract only, and psycopg quotes them; values are always bound. The
parameters of a statement are its key (`$1` is the tenant), then what its function says. A row is
returned as JSON and, if `with_etag`, its entity tag. SQL calls it `_row`, because no column or
table of a contract can have that name: PostgreSQL resolves a shared name to the column.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from psycopg.sql import SQL, Composable, Identifier, Literal

from openapi.tables import Column, Table

AND, COMMA, NOTHING = SQL(" and "), SQL(", "), SQL("")
# A hash of exactly the bytes that are sent, so a strong validator (RFC 9110 section 8.8.1).
ETAG_SQL = SQL("encode(sha256(convert_to(json::text, 'UTF8')), 'hex')")


@dataclass(frozen=True)
class RowTarget:
    """Rows of a table, by the key columns of a path: org_id, references, and the id of one row."""

    table: Table
    key: tuple[str, ...]
    with_etag: bool = False


def insert(target: RowTarget, columns: Sequence[str]) -> str:
    """Return SQL that inserts a row; it binds the key, here with an id, and the columns."""
    inserted = SQL("insert into {} ({}) values ({}) returning {}").format(
        Identifier(target.table.name),
        identifiers((*target.key, *columns)),
        COMMA.join(placeholder(n) for n in range(1, len(target.key) + len(columns) + 1)),
        all_columns(target),
    )
    return _with_row(inserted, _select_json(target, SQL("_row")))


def get(target: RowTarget) -> str:
    """Return SQL that selects the row of the key."""
    source = SQL("(select {} from {} where {}) _row").format(
        all_columns(target), *_table_and_key(target)
    )
    return _select_json(target, source).as_string()


def lock(target: RowTarget, columns: Sequence[str]) -> str:
    """Return SQL that selects columns of the row of the key and locks it (FOR UPDATE)."""
    select = SQL("select {} from {} where {} for update")
    return select.format(identifiers(columns), *_table_and_key(target)).as_string()


def replace(target: RowTarget, columns: Sequence[str], *, conditional: bool) -> str:
    """Return SQL that sets all columns; if `conditional`, only when the row's tag matches.

    It binds the values, then the accepted tags: an array, or NULL for any.
    """
    first = len(target.key) + 1
    assignments = [_assign(name, placeholder(n)) for n, name in enumerate(columns, first)]
    if target.table.column("updated_at"):
        assignments.append(_assign("updated_at", SQL("now()")))
    return _change(target, assignments, first + len(columns) if conditional else 0)


def update(target: RowTarget, columns: Sequence[str], *, conditional: bool) -> str:
    """Return SQL that sets some of the columns; `conditional` is as for `replace`.

    It binds, for each column, whether it is set and its value; then, for a table with
    `updated_at`, whether any column is set; then the accepted tags.
    """
    first = len(target.key) + 1
    end = first + 2 * len(columns)
    assignments = [
        _assign(name, _if(flag, placeholder(flag + 1), name))
        for flag, name in zip(range(first, end, 2), columns, strict=True)
    ]
    if target.table.column("updated_at"):
        assignments.append(_assign("updated_at", _if(end, SQL("now()"), "updated_at")))
        end += 1
    return _change(target, assignments, end if conditional else 0)


def delete(target: RowTarget, *, conditional: bool) -> str:
    """Return SQL that deletes the row of the key; if `conditional`, only when its tag matches."""
    deleted = SQL("delete from {} where {}{} returning id").format(
        *_table_and_key(target),
        _etag_condition(target, len(target.key) + 1) if conditional else NOTHING,
    )
    result = SQL("select id from _row")
    return _with_row(deleted, _or_nulls(target, result) if conditional else result)


def row_json(table: Table) -> Composable:
    """Return SQL of the JSON of `_row`; optional columns that are NULL are omitted."""
    if all(column.required or column.nullable for column in table.columns):
        return SQL("row_to_json(_row)")
    members = COMMA.join(map(_json_member, table.columns))
    return SQL("'{{' || concat_ws(',', {}) || '}}'").format(members)


def _json_member(column: Column) -> Composable:
    value = SQL("to_json(_row.{})").format(Identifier(column.name))
    if column.required or column.nullable:
        value = SQL("coalesce({}::text, 'null')").format(value)
    return SQL("{}::text || {}").format(Literal(f'"{column.name}":'), value)


def _select_json(target: RowTarget, source: Composable) -> Composable:
    select = SQL("select {} as json from {}").format(row_json(target.table), source)
    if not target.with_etag:
        return select
    return SQL("select json, {} from ({}) shown").format(ETAG_SQL, select)


def _change(target: RowTarget, assignments: Sequence[Composable], tags: int) -> str:
    """Return SQL that updates the row of the key; `tags` is the tags' parameter number, or 0."""
    if not assignments:
        return get(target)
    updated = SQL("update {} set {} where {}{} returning {}").format(
        Identifier(target.table.name),
        COMMA.join(assignments),
        equals(target.key),
        _etag_condition(target, tags) if tags else NOTHING,
        all_columns(target),
    )
    result = _select_json(target, SQL("_row"))
    return _with_row(updated, _or_nulls(target, result) if tags else result)


def _etag_condition(target: RowTarget, tags: int) -> Composable:
    """Return a condition on the tag that the row has at the moment of the change."""
    etag = SQL("select {} from (select {} as json from (select {}) _row) shown")
    return SQL(" and ({}::text[] is null or ({}) = any ({}::text[]))").format(
        placeholder(tags),
        etag.format(ETAG_SQL, row_json(target.table), all_columns(target)),
        placeholder(tags),
    )


def _or_nulls(target: RowTarget, result: Composable) -> Composable:
    """Return SQL of `result` or, if it is empty although the row exists, of a row of NULLs."""
    text = "select result.* from (select from {} where {}) existing left join ({}) result on true"
    return SQL(text).format(*_table_and_key(target), result)


def _with_row(changed: Composable, result: Composable) -> str:
    return SQL("with _row as ({}) {}").format(changed, result).as_string()


def _table_and_key(target: RowTarget) -> tuple[Composable, Composable]:
    return Identifier(target.table.name), equals(target.key)


def _assign(name: str, value: Composable) -> Composable:
    return SQL("{} = {}").format(Identifier(name), value)


def _if(flag: int, value: Composable, name: str) -> Composable:
    text = "case when {}::boolean then {} else {} end"
    return SQL(text).format(placeholder(flag), value, Identifier(name))


def all_columns(target: RowTarget) -> Composable:
    """Return the columns of the table, in the order of the contract."""
    return identifiers(column.name for column in target.table.columns)


def equals(columns: Iterable[str]) -> Composable:
    """Return `"a" = $1 and "b" = $2` and so on."""
    return AND.join(
        SQL("{} = {}").format(Identifier(name), placeholder(n)) for n, name in enumerate(columns, 1)
    )


def identifiers(columns: Iterable[str]) -> Composable:
    """Return `"a", "b"` and so on."""
    return COMMA.join(map(Identifier, columns))


def placeholder(n: int) -> Composable:
    """Return `$n`."""
    return SQL(f"${n}")
