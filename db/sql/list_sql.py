"""Lists of the rows of a contract's tables: filtered, sorted, a page at a time by key.

A position is the id of a row and, where the list is sorted, the value that it had: it holds also
when that row is gone. NULL is greater than every value, as PostgreSQL sorts it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg.sql import SQL, Composable, Identifier

from db.sql.crud_sql import NOTHING, RowTarget, all_columns, equals, placeholder, row_json


@dataclass(frozen=True)
class SortOrder:
    """By a column and the id, both up or both down."""

    column: str
    down: bool


def parse_sort(sort: str) -> SortOrder:
    """Return the order that a value of the parameter `sort` asks for."""
    return SortOrder(sort.removeprefix("-"), sort.startswith("-"))


def page_sql(
    rows: RowTarget, above: str, filters: Sequence[str], by: SortOrder | None, after: str
) -> str:
    """Return id, JSON and, with `by`, the value to sort by, of the rows behind a position.

    Bound are the key, the filters, the position and how many rows at most. `after` is what the
    position has: "" for the first page, `id`, `null` (and id) or `value` (and id). `above` is the
    table of the last id of the key: where that row has nothing here there is one row of NULLs,
    where it does not exist there is none.
    """
    fixed = (*rows.key, *filters)
    behind, first = _after_cursor(rows, by, after, len(fixed) + 1), len(fixed) + 1
    found = SQL("select {} from {} where {}{} order by {} limit {}").format(
        all_columns(rows),
        Identifier(rows.table.name),
        equals(fixed),
        behind,
        _order(by),
        placeholder(first + {"": 0, "id": 1, "null": 1, "value": 2}[after]),
    )
    text = "select _row.id, {}{} from {} above left join lateral ({}) _row on true where {}"
    return (
        SQL(text)
        .format(
            row_json(rows.table),
            SQL(", _row.{}::text").format(Identifier(by.column)) if by else NOTHING,
            Identifier(above),
            found,
            _is_parent(above, len(rows.key)),
        )
        .as_string()
    )


def _is_parent(above: str, last: int) -> Composable:
    if above == "organizations":
        return SQL("above.id = $1")
    return SQL("above.org_id = $1 and above.id = {}").format(placeholder(last))


def _order(by: SortOrder | None) -> Composable:
    if by is None:
        return SQL("id")
    text = "{} desc, id desc" if by.down else "{}, id"
    return SQL(text).format(Identifier(by.column))


def _after_cursor(rows: RowTarget, by: SortOrder | None, after: str, first: int) -> Composable:
    """Return the rest of a condition; comparing rows goes along an index on column and id."""
    if by is None or after == "":
        return SQL(" and id > {}").format(placeholder(first)) if after else NOTHING
    name = Identifier(by.column)
    if after == "null":
        text = " and ({} is not null or id < {})" if by.down else " and {} is null and id > {}"
        return SQL(text).format(name, placeholder(first))
    compare = "({}, id) < ({}, {})" if by.down else "({}, id) > ({}, {})"
    behind = SQL(compare).format(name, placeholder(first), placeholder(first + 1))
    column = rows.table.column(by.column)
    if by.down or (column and column.required):
        return SQL(" and {}").format(behind)
    return SQL(" and ({} or {} is null)").format(behind, name)
