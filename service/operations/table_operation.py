"""An operation on a contract table, compiled: its key, its columns, and how to read its request."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from orjson import Fragment

from db.errors import BrokenReference, InvalidValue, NotFound, VersionMismatch
from db.sql import pagination
from db.sql.crud_sql import RowTarget
from db.sql.list_sql import Position
from db.tenancy import Row, Session
from openapi.contract import Operation
from openapi.tables import Column, Table, reference_name
from service.operations.column_values import boolean_text, merge_patch, to_postgres
from service.operations.validation import Validate

_ETAG_LIST = re.compile(r'(W/)?"([^"]*)"')
_ETAG = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class TableOperation:
    """An operation on a table, compiled."""

    operation: Operation
    target: RowTarget
    key: tuple[str, ...]  # the path parameters that are the key, the tenant first
    parent: str  # the table that the last path parameter before the row's own id belongs to
    columns: tuple[Column, ...]  # that the body may contain
    conditional: bool  # accepts If-Match

    @property
    def column_names(self) -> list[str]:
        """The names of `columns`."""
        return [column.name for column in self.columns]

    def key_values(self, arguments: Mapping[str, Any]) -> list[str]:
        """Return the values of the key."""
        return [arguments[name] for name in self.key]

    def row_response(self, row: Row, status: int, headers: dict[str, str] | None = None) -> Any:
        """Return the response with a row of (JSON, tag?)."""
        headers = headers or {}
        if self.target.with_etag:
            headers["ETag"] = f'"{decode(row[1])}"'
        return Fragment(row[0] or b"null"), status, headers


def compile_operation(operation: Operation, table: Table) -> TableOperation:
    """Return an operation of `table`, with the key that its path names."""
    key = tuple(re.findall(r"\{([^{}]*)\}", operation.path))
    is_single_row = operation.path.endswith("}")
    parents = key[1:-1] if is_single_row else key[1:]
    referenced = {reference.column: reference.table for reference in table.references}
    successes = [r for code, r in operation.responses.items() if code.startswith("2")]
    media = (operation.body or {}).get("content", {}).values()
    body_names = {name for m in media for name in m["schema"].get("properties", {})}
    return TableOperation(
        operation=operation,
        target=RowTarget(
            table,
            key=("org_id", *parents, *(("id",) if is_single_row else ())),
            with_etag=any("etag" in map(str.lower, r.get("headers", {})) for r in successes),
        ),
        key=key,
        parent=referenced[parents[-1]] if parents else "organizations",
        columns=tuple(c for c in table.columns if c.name in body_names - {"org_id", *parents}),
        conditional=any(_is_header(p, "if-match") for p in operation.parameters),
    )


async def write(table: TableOperation, tenant: Session, sql: str, *values: str | None) -> list[Row]:
    """Run a write. Raises `DbError`, with the referencing column of a broken reference."""
    try:
        return await tenant.fetch(sql, *values)
    except BrokenReference as error:
        name = table.target.table.name
        columns = {reference_name(name, column.name): column.name for column in table.columns}
        error.column = columns.get(error.constraint)
        raise


def single(rows: list[Row]) -> Row:
    """Return the only row. Raises `NotFound`."""
    if not rows:
        raise NotFound
    return rows[0]


def changed_row(rows: list[Row], tags: list[str | None]) -> Row:
    """Return the changed row. Raises `NotFound`, and `VersionMismatch` for a row of NULLs."""
    row = single(rows)
    if row[0] is None:
        raise VersionMismatch if tags and tags[0] is not None else NotFound
    return row


def accepted_etags(table: TableOperation, arguments: Mapping[str, Any]) -> list[str | None]:
    """Return the tags of If-Match as a PostgreSQL array, or NULL for any; [] if not conditional.

    Weak tags never match (RFC 9110 section 13.1.1).
    """
    if not table.conditional:
        return []
    header = arguments.get("if_match")
    if header is None or header == "*":
        return [None]
    return [f"{{{','.join(etags(header, weak=False))}}}"]


def etags(header: str, *, weak: bool) -> list[str]:
    """Return the tags of a header that have our form; with `weak`, also those marked W/."""
    pairs = _ETAG_LIST.findall(header)
    return [tag for mark, tag in pairs if _ETAG.fullmatch(tag) and (weak or not mark)]


def read_position(
    sorts: Sequence[str], sort: str | None, cursor: str | None
) -> tuple[str | None, Position, list[str | None]]:
    """Return the order, the kind of position, and the values that it binds.

    The cursor of a sorted list contains its order; asking for another one is an error.
    """
    if cursor is None:
        return (sort, Position.START, []) if sort else (None, Position.ID, [pagination.FIRST_ID])
    if not sorts or (sort is None and pagination.is_id_cursor(cursor)):
        return None, Position.ID, [pagination.decode_cursor(cursor)]
    cursor_sort, value, id = pagination.decode_sorted_cursor(cursor)
    if cursor_sort not in sorts or sort not in (None, cursor_sort):
        raise pagination.invalid_cursor()
    if value is None:
        return cursor_sort, Position.NULL_AND_ID, [id]
    return cursor_sort, Position.VALUE_AND_ID, [value, id]


def body_values(table: TableOperation, body: Mapping[str, Any]) -> list[str | None]:
    """Return the values of all columns, with defaults, as PostgreSQL reads them."""
    return [to_postgres(c, body.get(c.name, c.default)) for c in table.columns]


def patch_values(table: TableOperation, body: Mapping[str, Any]) -> list[str | None]:
    """Return what `crud_sql.update` binds between the key and the tags."""
    values: list[str | None] = []
    for column in table.columns:
        values += boolean_text(column.name in body), to_postgres(column, body.get(column.name))
    if table.target.table.column("updated_at"):
        values.append(boolean_text(bool(body)))
    return values


def merged_objects(
    body: Mapping[str, Any], validators: Mapping[str, Validate], stored: Row
) -> Iterator[tuple[str, Any]]:
    """Yield the patched objects by name. Raises `InvalidValue`."""
    for (name, validate), old in zip(validators.items(), stored, strict=True):
        if isinstance(body.get(name), dict):
            merged = merge_patch(orjson.loads(old or b"null"), body[name])
            for error in validate(merged):
                detail = f"after the merge: {error.detail}"
                raise InvalidValue("body", f"/{name}{error.pointer}", detail)
            yield name, merged


def decode(field: bytes | None) -> str:
    """Return a field of a row as text."""
    return (field or b"").decode()


def _is_header(parameter: Mapping[str, Any], name: str) -> bool:
    return bool(parameter["in"] == "header" and parameter["name"].lower() == name)
