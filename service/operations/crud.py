"""The generic handlers: create, list, get, replace, update and delete rows of contract tables.

`generic_handler` computes at start what an operation needs. It returns an async function that takes
the operation's arguments by name; a handler in handlers/ may call it as its argument `generic`.
"""

import re
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import orjson
from orjson import Fragment

from db import ids
from db.errors import BrokenReference, InUse, InvalidValue, NotFound, VersionMismatch
from db.sql import crud_sql, list_sql, pagination
from db.sql.crud_sql import RowTarget
from db.sql.list_sql import Position
from db.tenancy import Row, Session
from openapi.contract import Operation
from openapi.tables import Column, Table, reference_name
from service.operations.column_values import boolean_text, merge_patch, to_postgres
from service.operations.validation import Validate

Handler = Callable[..., Coroutine[Any, Any, Any]]
CompileSchema = Callable[[Mapping[str, Any]], Validate]

DEFAULT_LIMIT = 20  # items of a page when the contract has no default
_ETAG_LIST = re.compile(r'(W/)?"([^"]*)"')
_ETAG = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class TableOperation:
    """An operation on a table, compiled."""

    operation: Operation
    target: RowTarget
    key: tuple[str, ...]  # the path parameters that are the key, the tenant first
    parent: str  # the table of the last path parameter before the row's own
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
            headers["ETag"] = f'"{_decode(row[1])}"'
        return Fragment(row[0] or b"null"), status, headers


def generic_handler(
    operation: Operation, tables: Mapping[str, Table], compile_schema: CompileSchema
) -> Handler | None:
    """Return the handler of an operation, or None unless its tag and verb are a table's.

    `compile_schema` compiles the schema of a stored value.
    """
    create_handler = _HANDLERS.get(operation.verb)
    table = tables.get(operation.tag)
    if create_handler is None or table is None:
        return None
    return create_handler(_table_operation(operation, table), compile_schema)


def _table_operation(operation: Operation, table: Table) -> TableOperation:
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


def _create(table: TableOperation, _: CompileSchema) -> Handler:
    target = replace(table.target, key=(*table.target.key, "id"))
    sql = crud_sql.insert(target, table.column_names)
    path = table.operation.path

    async def create(tenant: Session, body: dict[str, Any] | None, **arguments: Any) -> Any:
        id = ids.new()
        values = _column_values(table, body or {})
        [row] = await _write(table, tenant, sql, *table.key_values(arguments), id, *values)
        return table.row_response(row, 201, {"Location": f"{path.format(**arguments)}/{id}"})

    return create


def _get(table: TableOperation, _: CompileSchema) -> Handler:
    sql = crud_sql.get(table.target)
    supports_304 = table.target.with_etag and "304" in table.operation.responses

    async def get(tenant: Session, **arguments: Any) -> Any:
        row = _single(await tenant.fetch(sql, *table.key_values(arguments)))
        known = arguments.get("if_none_match") if supports_304 else None
        response = table.row_response(row, 200)
        if known and (known == "*" or _decode(row[1]) in _etags(known, weak=True)):
            return None, 304, response[2]
        return response

    return get


def _list(table: TableOperation, _: CompileSchema) -> Handler:
    query = {p["name"]: p for p in table.operation.parameters if p["in"] == "query"}
    filters = [c for name in query if (c := table.target.table.column(name))]
    sorts = query["sort"]["schema"]["enum"] if "sort" in query else []

    @cache
    def sql(names: tuple[str, ...], sort: str | None, position: Position) -> str:
        order = list_sql.parse_sort(sort) if sort else None
        return list_sql.page_sql(table.target, table.parent, names, order, position)

    async def list_(tenant: Session, **arguments: Any) -> Any:
        columns = [column for column in filters if column.name in arguments]
        values = [to_postgres(column, arguments[column.name], "query") for column in columns]
        limit = arguments.get("limit", DEFAULT_LIMIT)
        sort, position, bound = _position(sorts, arguments.get("sort"), arguments.get("cursor"))
        statement = sql(tuple(column.name for column in columns), sort, position)
        parameters = [*table.key_values(arguments), *values, *bound, str(limit + 1)]
        try:
            rows = await tenant.fetch(statement, *parameters)
        except InvalidValue:  # everything else in a list was validated
            raise pagination.invalid_cursor() from None
        return pagination.page_body(rows, limit, sort)

    return list_


def _replace(table: TableOperation, _: CompileSchema) -> Handler:
    sql = crud_sql.replace(table.target, table.column_names, conditional=table.conditional)

    async def replace_(tenant: Session, body: dict[str, Any] | None, **arguments: Any) -> Any:
        values, tags = _column_values(table, body or {}), _accepted_etags(table, arguments)
        key = table.key_values(arguments)
        rows = await _write(table, tenant, sql, *key, *values, *tags)
        return table.row_response(_changed(rows, tags), 200)

    return replace_


def _update(table: TableOperation, compile_schema: CompileSchema) -> Handler:
    """Apply a JSON merge patch (RFC 7396). Only a patch of stored objects reads them first."""
    sql = crud_sql.update(table.target, table.column_names, conditional=table.conditional)
    validators = {
        c.name: compile_schema(c.schema) for c in table.columns if c.schema["type"] == "object"
    }
    lock = crud_sql.lock(table.target, list(validators)) if validators else ""

    async def update(tenant: Session, body: dict[str, Any] | None, **arguments: Any) -> Any:
        key, tags, body = (
            table.key_values(arguments),
            _accepted_etags(table, arguments),
            body or {},
        )
        if any(isinstance(body.get(name), dict) for name in validators):
            async with tenant.transaction() as tx:
                stored = _single(await tx.fetch(lock, *key))
                merged = body | dict(_merged_objects(body, validators, stored))
                within = replace(tenant, current=tx)
                rows = await _write(table, within, sql, *key, *_patch(table, merged), *tags)
        else:
            rows = await _write(table, tenant, sql, *key, *_patch(table, body), *tags)
        return table.row_response(_changed(rows, tags), 200)

    return update


def _delete(table: TableOperation, _: CompileSchema) -> Handler:
    sql = crud_sql.delete(table.target, conditional=table.conditional)

    async def delete(tenant: Session, **arguments: Any) -> None:
        tags = _accepted_etags(table, arguments)
        try:
            rows = await tenant.fetch(sql, *table.key_values(arguments), *tags)
        except BrokenReference as error:
            raise InUse from error
        _changed(rows, tags)

    return delete


_HANDLERS = {
    "create": _create,
    "list": _list,
    "get": _get,
    "replace": _replace,
    "update": _update,
    "delete": _delete,
}


async def _write(
    table: TableOperation, tenant: Session, sql: str, *values: str | None
) -> list[Row]:
    """Run a write. Raises `DbError`, with the referencing column of a broken reference."""
    try:
        return await tenant.fetch(sql, *values)
    except BrokenReference as error:
        name = table.target.table.name
        columns = {reference_name(name, column.name): column.name for column in table.columns}
        error.column = columns.get(error.constraint)
        raise


def _single(rows: list[Row]) -> Row:
    if not rows:
        raise NotFound
    return rows[0]


def _changed(rows: list[Row], tags: list[str | None]) -> Row:
    """Return the changed row; a row of NULLs means that the condition did not match."""
    row = _single(rows)
    if row[0] is None:
        raise VersionMismatch if tags and tags[0] is not None else NotFound
    return row


def _accepted_etags(table: TableOperation, arguments: Mapping[str, Any]) -> list[str | None]:
    """Return the tags of If-Match as a PostgreSQL array, or NULL for any; [] if not conditional.

    Weak tags never match (RFC 9110 section 13.1.1).
    """
    if not table.conditional:
        return []
    header = arguments.get("if_match")
    if header is None or header == "*":
        return [None]
    return [f"{{{','.join(_etags(header, weak=False))}}}"]


def _etags(header: str, *, weak: bool) -> list[str]:
    """Return the tags of a header that have our form; with `weak`, also those marked W/."""
    pairs = _ETAG_LIST.findall(header)
    return [tag for mark, tag in pairs if _ETAG.fullmatch(tag) and (weak or not mark)]


def _position(
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


def _column_values(table: TableOperation, body: Mapping[str, Any]) -> list[str | None]:
    return [to_postgres(c, body.get(c.name, c.default)) for c in table.columns]


def _patch(table: TableOperation, body: Mapping[str, Any]) -> list[str | None]:
    """Return what `crud_sql.update` binds, except the tags."""
    values: list[str | None] = []
    for column in table.columns:
        values += boolean_text(column.name in body), to_postgres(column, body.get(column.name))
    if table.target.table.column("updated_at"):
        values.append(boolean_text(bool(body)))
    return values


def _merged_objects(
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


def _decode(field: bytes | None) -> str:
    return (field or b"").decode()


def _is_header(parameter: Mapping[str, Any], name: str) -> bool:
    return bool(parameter["in"] == "header" and parameter["name"].lower() == name)
