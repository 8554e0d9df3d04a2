"""SQL of lists of rows of contract tables: filtered, sorted, one page at a time.

A position is the id of a row and, in a sorted list, the value that it had: it stays valid when
that row is deleted. NULL is greater than every value, which is PostgreSQL's default.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from psycopg.sql import SQL, Composable, Identifier

from db.sql.crud_sql import NOTHING, RowTarget, all_columns, equals, placeholder, row_json


@dataclass(frozen=True)
class SortOrder:
    """By a column and then the id, both ascending or both descending."""

    column: str
    descending: bool


class Position(Enum):
    """What a page begins after."""

    START = "nothing"
    ID = "an id"
    NULL_AND_ID = "an id whose sorted value is NULL"
    VALUE_AND_ID = "a sorted value and an id"

    @property
    def parameters(self) -> int:
        """How many parameters the position binds."""
        return {Position.START: 0, Position.VALUE_AND_ID: 2}.get(self, 1)


def parse_sort(sort: str) -> SortOrder:
    """Return the order that a value of the parameter `sort` names; `-` means descending."""
    return SortOrder(sort.removeprefix("-"), sort.startswith("-"))


def page_sql(
    target: RowTarget,
    parent: str,
    filters: Sequence[str],
    order: SortOrder | None,
    position: Position,
) -> str:
    """Return SQL of id, JSON and, with `order`, the sorted value of the rows after a position.

    It binds the key, the filters, the position and the maximum number of rows. `parent` is the
    table that the last id of the key belongs to. If its row exists but the page is empty, the
    result is one row of NULLs; if its row does not exist, the result is empty.
    """
    fixed = (*target.key, *filters)
    first = len(fixed) + 1
    rows = SQL("select {} from {} where {}{} order by {} limit {}").format(
        all_columns(target),
        Identifier(target.table.name),
        equals(fixed),
        _after_cursor(target, order, position, first),
        _order_by(order),
        placeholder(first + position.parameters),
    )
    text = "select _row.id, {}{} from {} above left join lateral ({}) _row on true where {}"
    return (
        SQL(text)
        .format(
            row_json(target.table),
            SQL(", _row.{}::text").format(Identifier(order.column)) if order else NOTHING,
            Identifier(parent),
            rows,
            _is_parent(parent, len(target.key)),
        )
        .as_string()
    )


def _is_parent(parent: str, last: int) -> Composable:
    if parent == "organizations":
        return SQL("above.id = $1")
    return SQL("above.org_id = $1 and above.id = {}").format(placeholder(last))


def _order_by(order: SortOrder | None) -> Composable:
    if order is None:
        return SQL("id")
    text = "{} desc, id desc" if order.descending else "{}, id"
    return SQL(text).format(Identifier(order.column))


def _after_cursor(
    target: RowTarget, order: SortOrder | None, position: Position, first: int
) -> Composable:
    """Return a condition for the position; a row comparison can use an index on column and id."""
    if position is Position.START:
        return NOTHING
    if order is None:
        return SQL(" and id > {}").format(placeholder(first))
    name = Identifier(order.column)
    if position is Position.NULL_AND_ID:
        text = (
            " and ({} is not null or id < {})"
            if order.descending
            else " and {} is null and id > {}"
        )
        return SQL(text).format(name, placeholder(first))
    compare = "({}, id) < ({}, {})" if order.descending else "({}, id) > ({}, {})"
    condition = SQL(compare).format(name, placeholder(first), placeholder(first + 1))
    column = target.table.column(order.column)
    if order.descending or (column and column.required):
        return SQL(" and {}").format(condition)
    return SQL(" and ({} or {} is null)").format(condition, name)
