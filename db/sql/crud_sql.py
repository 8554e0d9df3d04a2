"""Statements on the tables of the contract: SQL written from x-table, once for each operation.

Identifiers come from the contract alone and psycopg quotes them; values are only ever bound. The
parameters of a statement are its key, `$1` being the tenant, and then what its function says. A
row is answered as its JSON and, where it is tagged, its tag. It is called `_row` in SQL, as no
column and no table of a contract can be: PostgreSQL would take such a name for the column.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from psycopg.sql import SQL, Composable, Identifier, Literal

from openapi.tables import Column, Table

AND, COMMA, NOTHING = SQL(" and "), SQL(", "), SQL("")
# Of the very bytes that are answered, so that it is a strong validator (RFC 9110, 8.8.1).
ETAG_SQL = SQL("encode(sha256(convert_to(json::text, 'UTF8')), 'hex')")


@dataclass(frozen=True)
class RowTarget:
    """Rows of a table by the columns that a path gives: org_id, references, and id of one row."""

    table: Table
    key: tuple[str, ...]
    tagged: bool = False


def insert(rows: RowTarget, columns: Sequence[str]) -> str:
    """Make a row of the key, here with an id of its own, and of the columns."""
    made = SQL("insert into {} ({}) values ({}) returning {}").format(
        Identifier(rows.table.name),
        identifiers((*rows.key, *columns)),
        COMMA.join(placeholder(n) for n in range(1, len(rows.key) + len(columns) + 1)),
        all_columns(rows),
    )
    return _with(made, _json_select(rows, SQL("_row")))


def get(rows: RowTarget) -> str:
    """Return the row of the key."""
    found = SQL("(select {} from {} where {}) _row").format(
        all_columns(rows), *_table_and_key(rows)
    )
    return _json_select(rows, found).as_string()


def lock(rows: RowTarget, columns: Sequence[str]) -> str:
    """Return columns of the row of the key, which stays as it is until the transaction ends."""
    found = SQL("select {} from {} where {} for update")
    return found.format(identifiers(columns), *_table_and_key(rows)).as_string()


def replace(rows: RowTarget, columns: Sequence[str], *, conditional: bool) -> str:
    """Give the columns new values; if `conditional`, only where the row's tag is a good one.

    Bound are the values, then the good tags: an array, or NULL for any.
    """
    first = len(rows.key) + 1
    sets = [_set(name, placeholder(n)) for n, name in enumerate(columns, first)]
    if rows.table.column("updated_at"):
        sets.append(_set("updated_at", SQL("now()")))
    return _change(rows, sets, first + len(columns) if conditional else 0)


def update(rows: RowTarget, columns: Sequence[str], *, conditional: bool) -> str:
    """Give some of the columns new values, as `replace` does all.

    Bound are for each column whether it is one and its value, for a table with `updated_at`
    whether there is any, and the tags.
    """
    first = len(rows.key) + 1
    end = first + 2 * len(columns)
    sets = [
        _set(name, _if(flag, placeholder(flag + 1), name))
        for flag, name in zip(range(first, end, 2), columns, strict=True)
    ]
    if rows.table.column("updated_at"):
        sets.append(_set("updated_at", _if(end, SQL("now()"), "updated_at")))
        end += 1
    return _change(rows, sets, end if conditional else 0)


def delete(rows: RowTarget, *, conditional: bool) -> str:
    """Delete the row of the key; if `conditional`, only where its tag is a good one."""
    gone = SQL("delete from {} where {}{} returning id").format(
        *_table_and_key(rows), _etag_condition(rows, len(rows.key) + 1) if conditional else NOTHING
    )
    answer = SQL("select id from _row")
    return _with(gone, _or_nulls(rows, answer) if conditional else answer)


def row_json(table: Table) -> Composable:
    """Return what makes the JSON of row `_row`; what may be absent is left out where it is NULL."""
    if all(column.required or column.nullable for column in table.columns):
        return SQL("row_to_json(_row)")
    members = COMMA.join(map(_member, table.columns))
    return SQL("'{{' || concat_ws(',', {}) || '}}'").format(members)


def _member(column: Column) -> Composable:
    value = SQL("to_json(_row.{})").format(Identifier(column.name))
    if column.required or column.nullable:
        value = SQL("coalesce({}::text, 'null')").format(value)
    return SQL("{}::text || {}").format(Literal(f'"{column.name}":'), value)


def _json_select(rows: RowTarget, source: Composable) -> Composable:
    answer = SQL("select {} as json from {}").format(row_json(rows.table), source)
    return (
        SQL("select json, {} from ({}) shown").format(ETAG_SQL, answer) if rows.tagged else answer
    )


def _change(rows: RowTarget, sets: Sequence[Composable], tags: int) -> str:
    if not sets:
        return get(rows)
    changed = SQL("update {} set {} where {}{} returning {}").format(
        Identifier(rows.table.name),
        COMMA.join(sets),
        equals(rows.key),
        _etag_condition(rows, tags) if tags else NOTHING,
        all_columns(rows),
    )
    answer = _json_select(rows, SQL("_row"))
    return _with(changed, _or_nulls(rows, answer) if tags else answer)


def _etag_condition(rows: RowTarget, tags: int) -> Composable:
    """Return the rest of a condition; it is tried on the row as it is when it is changed."""
    tag = SQL("select {} from (select {} as json from (select {}) _row) shown")
    return SQL(" and ({}::text[] is null or ({}) = any ({}::text[]))").format(
        placeholder(tags),
        tag.format(ETAG_SQL, row_json(rows.table), all_columns(rows)),
        placeholder(tags),
    )


def _or_nulls(rows: RowTarget, answer: Composable) -> Composable:
    """Tell what does not match, a row of NULLs, from what is not there, no row, all at once."""
    text = "select answer.* from (select from {} where {}) there left join ({}) answer on true"
    return SQL(text).format(*_table_and_key(rows), answer)


def _with(changed: Composable, answer: Composable) -> str:
    return SQL("with _row as ({}) {}").format(changed, answer).as_string()


def _table_and_key(rows: RowTarget) -> tuple[Composable, Composable]:
    return Identifier(rows.table.name), equals(rows.key)


def _set(name: str, value: Composable) -> Composable:
    return SQL("{} = {}").format(Identifier(name), value)


def _if(flag: int, value: Composable, name: str) -> Composable:
    text = "case when {}::boolean then {} else {} end"
    return SQL(text).format(placeholder(flag), value, Identifier(name))


def all_columns(rows: RowTarget) -> Composable:
    return identifiers(column.name for column in rows.table.columns)


def equals(columns: Iterable[str]) -> Composable:
    """Return `"a" = $1 and "b" = $2` and so on."""
    return AND.join(
        SQL("{} = {}").format(Identifier(name), placeholder(n)) for n, name in enumerate(columns, 1)
    )


def identifiers(columns: Iterable[str]) -> Composable:
    return COMMA.join(map(Identifier, columns))


def placeholder(n: int) -> Composable:
    return SQL(f"${n}")
