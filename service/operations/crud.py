"""The generic handlers: create, list, get, replace, update and delete rows of contract tables.

`generic_handler` compiles an operation at start-up. It returns an async function that takes the
operation's arguments by name. A handler in handlers/ may take it as its argument `generic`.
"""

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from db import ids
from db.errors import BrokenReference, InUse, InvalidValue
from db.sql import crud_sql, list_sql, pagination
from db.sql.list_sql import Position
from db.tenancy import Session
from openapi.contract import Operation
from openapi.tables import Table
from service.operations.column_values import to_postgres
from service.operations.table_operation import (
    TableOperation,
    accepted_etags,
    body_values,
    changed_row,
    compile_operation,
    decode,
    etags,
    merged_objects,
    patch_values,
    read_position,
    single,
    write,
)
from service.operations.validation import Validate

Handler = Callable[..., Coroutine[Any, Any, Any]]
CompileSchema = Callable[[Mapping[str, Any]], Validate]

DEFAULT_LIMIT = 20  # items of a page when the contract has no default


def generic_handler(
    operation: Operation, tables: Mapping[str, Table], compile_schema: CompileSchema
) -> Handler | None:
    """Return the handler of an operation, or None if its tag is no table or its verb not generic.

    `compile_schema` compiles the schema of a stored value.
    """
    create_handler = _HANDLERS.get(operation.verb)
    table = tables.get(operation.tag)
    if create_handler is None or table is None:
        return None
    return create_handler(compile_operation(operation, table), compile_schema)


def _create(table: TableOperation, _: CompileSchema) -> Handler:
    target = replace(table.target, key=(*table.target.key, "id"))
    sql = crud_sql.insert(target, table.column_names)
    path = table.operation.path

    async def create(tenant: Session, body: dict[str, Any] | None, **arguments: Any) -> Any:
        id = ids.new()
        values = body_values(table, body or {})
        [row] = await write(table, tenant, sql, *table.key_values(arguments), id, *values)
        return table.row_response(row, 201, {"Location": f"{path.format(**arguments)}/{id}"})

    return create


def _get(table: TableOperation, _: CompileSchema) -> Handler:
    sql = crud_sql.get(table.target)
    supports_304 = table.target.with_etag and "304" in table.operation.responses

    async def get(tenant: Session, **arguments: Any) -> Any:
        row = single(await tenant.fetch(sql, *table.key_values(arguments)))
        known = arguments.get("if_none_match") if supports_304 else None
        response = table.row_response(row, 200)
        if known and (known == "*" or decode(row[1]) in etags(known, weak=True)):
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
        sort, position, bound = read_position(sorts, arguments.get("sort"), arguments.get("cursor"))
        statement = sql(tuple(column.name for column in columns), sort, position)
        parameters = [*table.key_values(arguments), *values, *bound, str(limit + 1)]
        try:
            rows = await tenant.fetch(statement, *parameters)
        except InvalidValue:  # all other parameters were validated
            raise pagination.invalid_cursor() from None
        return pagination.page_body(rows, limit, sort)

    return list_


def _replace(table: TableOperation, _: CompileSchema) -> Handler:
    sql = crud_sql.replace(table.target, table.column_names, conditional=table.conditional)

    async def replace_(tenant: Session, body: dict[str, Any] | None, **arguments: Any) -> Any:
        values, tags = body_values(table, body or {}), accepted_etags(table, arguments)
        key = table.key_values(arguments)
        rows = await write(table, tenant, sql, *key, *values, *tags)
        return table.row_response(changed_row(rows, tags), 200)

    return replace_


def _update(table: TableOperation, compile_schema: CompileSchema) -> Handler:
    """Apply a JSON merge patch (RFC 7396).

    Only a patch that merges into a stored object reads the row first.
    """
    sql = crud_sql.update(table.target, table.column_names, conditional=table.conditional)
    validators = {
        c.name: compile_schema(c.schema) for c in table.columns if c.schema["type"] == "object"
    }
    lock = crud_sql.lock(table.target, list(validators)) if validators else ""

    async def update(tenant: Session, body: dict[str, Any] | None, **arguments: Any) -> Any:
        key, tags, body = (
            table.key_values(arguments),
            accepted_etags(table, arguments),
            body or {},
        )
        if any(isinstance(body.get(name), dict) for name in validators):
            async with tenant.transaction() as tx:
                stored = single(await tx.fetch(lock, *key))
                merged = body | dict(merged_objects(body, validators, stored))
                within = replace(tenant, current=tx)
                rows = await write(table, within, sql, *key, *patch_values(table, merged), *tags)
        else:
            rows = await write(table, tenant, sql, *key, *patch_values(table, body), *tags)
        return table.row_response(changed_row(rows, tags), 200)

    return update


def _delete(table: TableOperation, _: CompileSchema) -> Handler:
    sql = crud_sql.delete(table.target, conditional=table.conditional)

    async def delete(tenant: Session, **arguments: Any) -> None:
        tags = accepted_etags(table, arguments)
        try:
            rows = await tenant.fetch(sql, *table.key_values(arguments), *tags)
        except BrokenReference as error:
            raise InUse from error
        changed_row(rows, tags)

    return delete


_HANDLERS = {
    "create": _create,
    "list": _list,
    "get": _get,
    "replace": _replace,
    "update": _update,
    "delete": _delete,
}
