"""The generic handler: operations of a table that need no code of their own.

`handler` works out at start what an operation needs, and returns an async function that takes the
operation's arguments by name; a handler of the user's own may call it as its argument `generic`.
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
from db.tenancy import Row, Session
from openapi.contract import Operation
from openapi.tables import Column, Table, reference_name
from service.operations import column_values

Handler = Callable[..., Coroutine[Any, Any, Any]]
# From a schema and where its values are to what finds the faults of a value.
CompileSchema = Callable[[Mapping[str, Any]], Callable[[Any], list[Any]]]

DEFAULT_LIMIT = 20  # items of a page where the contract has no default
_ETAG_LIST = re.compile(r'(W/)?"([^"]*)"')
_ETAG = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class TableOperation:
    """An operation on a table, with what its contract says worked out."""

    operation: Operation
    rows: RowTarget
    key: tuple[str, ...]  # the path parameters that are the key, the tenant first
    above: str  # the table of the last path parameter before the row's own
    columns: tuple[Column, ...]  # that the body may name
    conditional: bool

    @property
    def names(self) -> list[str]:
        return [column.name for column in self.columns]

    def ids(self, arguments: Mapping[str, Any]) -> list[str]:
        return [arguments[name] for name in self.key]

    def answer(self, row: Row, status: int, headers: dict[str, str] | None = None) -> Any:
        headers = headers or {}
        if self.rows.tagged:
            headers["ETag"] = f'"{_text_of(row[1])}"'
        return Fragment(row[0] or b"null"), status, headers


def generic_handler(
    operation: Operation, tables: Mapping[str, Table], checker: CompileSchema
) -> Handler | None:
    """Return the handler of an operation, None where its tag and verb are not a table's."""
    make = _VERBS.get(operation.verb)
    table = tables.get(operation.tag)
    if make is None or table is None:
        return None
    return make(_table_operation(operation, table), checker)


def _table_operation(operation: Operation, table: Table) -> TableOperation:
    key = tuple(re.findall(r"\{([^{}]*)\}", operation.path))
    of_one = operation.path.endswith("}")
    parents = key[1:-1] if of_one else key[1:]
    referred = {reference.column: reference.table for reference in table.references}
    answers = [a for code, a in operation.responses.items() if code.startswith("2")]
    media = (operation.body or {}).get("content", {}).values()
    sent = {name for one in media for name in one["schema"].get("properties", {})}
    return TableOperation(
        operation=operation,
        rows=RowTarget(
            table,
            key=("org_id", *parents, *(("id",) if of_one else ())),
            tagged=any("etag" in map(str.lower, a.get("headers", {})) for a in answers),
        ),
        key=key,
        above=referred[parents[-1]] if parents else "organizations",
        columns=tuple(c for c in table.columns if c.name in sent - {"org_id", *parents}),
        conditional=any(_is_header(p, "if-match") for p in operation.parameters),
    )


def _create(of: TableOperation, checker: CompileSchema) -> Handler:
    rows = RowTarget(of.rows.table, (*of.rows.key, "id"), of.rows.tagged)
    sql = crud_sql.insert(rows, of.names)
    path = of.operation.path

    async def create(tenant: Session, body: dict[str, Any] | None, **arguments: Any) -> Any:
        id = ids.new()
        values = _values(of, body or {})
        [row] = await _write(of, tenant, sql, *of.ids(arguments), id, *values)
        return of.answer(row, 201, {"Location": f"{path.format(**arguments)}/{id}"})

    return create


def _get(of: TableOperation, checker: CompileSchema) -> Handler:
    sql = crud_sql.get(of.rows)
    may_be_known = of.rows.tagged and "304" in of.operation.responses

    async def get(tenant: Session, **arguments: Any) -> Any:
        row = _one(await tenant.fetch(sql, *of.ids(arguments)))
        known = arguments.get("if_none_match") if may_be_known else None
        answer = of.answer(row, 200)
        if known and (known == "*" or _text_of(row[1]) in _etags(known, weak=True)):
            return None, 304, answer[2]
        return answer

    return get


def _list(of: TableOperation, checker: CompileSchema) -> Handler:
    query = [p["name"] for p in of.operation.parameters if p["in"] == "query"]
    filters = [c for name in query if (c := of.rows.table.column(name))]
    sorts = [w for p in of.operation.parameters if p["name"] == "sort" for w in p["schema"]["enum"]]

    @cache
    def sql(given: tuple[str, ...], sort: str | None, after: str) -> str:
        order = list_sql.parse_sort(sort) if sort else None
        return list_sql.page_sql(of.rows, of.above, given, order, after)

    async def list_(tenant: Session, **arguments: Any) -> Any:
        given = [column for column in filters if column.name in arguments]
        values = [
            column_values.to_postgres(column, arguments[column.name], "query") for column in given
        ]
        limit = arguments.get("limit", DEFAULT_LIMIT)
        sort, after, position = _position(sorts, arguments.get("sort"), arguments.get("cursor"))
        bound = [*of.ids(arguments), *values, *position, str(limit + 1)]
        try:
            found = await tenant.fetch(sql(tuple(c.name for c in given), sort, after), *bound)
        except InvalidValue:  # nothing else in a list can be what the table does not take
            raise pagination.invalid_cursor() from None
        return pagination.page_body(found, limit, sort)

    return list_


def _replace(of: TableOperation, checker: CompileSchema) -> Handler:
    sql = crud_sql.replace(of.rows, of.names, conditional=of.conditional)

    async def replace_(tenant: Session, body: dict[str, Any] | None, **arguments: Any) -> Any:
        values, condition = _values(of, body or {}), _condition(of, arguments)
        found = await _write(of, tenant, sql, *of.ids(arguments), *values, *condition)
        return of.answer(_changed(found, condition), 200)

    return replace_


def _update(of: TableOperation, checker: CompileSchema) -> Handler:
    """JSON merge patch (RFC 7396). Only what merges into stored objects needs to see them first."""
    sql = crud_sql.update(of.rows, of.names, conditional=of.conditional)
    checks = {c.name: checker(c.schema) for c in of.columns if c.schema["type"] == "object"}
    lock = crud_sql.lock(of.rows, list(checks)) if checks else ""

    async def update(tenant: Session, body: dict[str, Any] | None, **arguments: Any) -> Any:
        place, condition, body = of.ids(arguments), _condition(of, arguments), body or {}
        if any(isinstance(body.get(name), dict) for name in checks):
            async with tenant.transaction() as tx:
                stored = _one(await tx.fetch(lock, *place))
                whole = body | dict(_merged(body, checks, stored))
                inside = replace(tenant, within=tx)
                found = await _write(of, inside, sql, *place, *_patch(of, whole), *condition)
        else:
            found = await _write(of, tenant, sql, *place, *_patch(of, body), *condition)
        return of.answer(_changed(found, condition), 200)

    return update


def _delete(of: TableOperation, checker: CompileSchema) -> Handler:
    sql = crud_sql.delete(of.rows, conditional=of.conditional)

    async def delete(tenant: Session, **arguments: Any) -> None:
        condition = _condition(of, arguments)
        try:
            found = await tenant.fetch(sql, *of.ids(arguments), *condition)
        except BrokenReference as error:
            raise InUse from error
        _changed(found, condition)

    return delete


_VERBS = {
    "create": _create,
    "list": _list,
    "get": _get,
    "replace": _replace,
    "update": _update,
    "delete": _delete,
}


async def _write(of: TableOperation, tenant: Session, sql: str, *values: str | None) -> list[Row]:
    """Return what a statement answers. Raises `DbError`, which names the column at fault."""
    try:
        return await tenant.fetch(sql, *values)
    except BrokenReference as error:
        table = of.rows.table.name
        named = {reference_name(table, column.name): column.name for column in of.columns}
        error.column = named.get(error.constraint)
        raise


def _one(rows: list[Row]) -> Row:
    if not rows:
        raise NotFound
    return rows[0]


def _changed(rows: list[Row], condition: list[str | None]) -> Row:
    """Return the row that was changed; NULLs stand for one that the condition left alone."""
    row = _one(rows)
    if row[0] is None:
        raise VersionMismatch if condition and condition[0] is not None else NotFound
    return row


def _condition(of: TableOperation, arguments: Mapping[str, Any]) -> list[str | None]:
    """Return the good tags as an array of PostgreSQL; weak ones never match (RFC 9110, 13.1.1)."""
    if not of.conditional:
        return []
    sent = arguments.get("if_match")
    return [None if sent is None or sent == "*" else f"{{{','.join(_etags(sent, weak=False))}}}"]


def _etags(header: str, *, weak: bool) -> list[str]:
    """Return the tags of a header that are of our form, with `weak` those marked W/ as well."""
    found = _ETAG_LIST.findall(header)
    return [tag for mark, tag in found if _ETAG.fullmatch(tag) and (weak or not mark)]


def _position(
    sorts: Sequence[str], sort: str | None, cursor: str | None
) -> tuple[str | None, str, list[str | None]]:
    """Return the order, what the position has, as `listings.page` names it, and its values.

    A cursor of a sorted list goes on in its order; asking for another one is a fault.
    """
    if cursor is None:
        return (sort, "", []) if sort else (None, "id", [pagination.FIRST_ID])
    if not sorts or (sort is None and pagination.is_id_cursor(cursor)):
        return None, "id", [pagination.decode_cursor(cursor)]
    made_for, value, id = pagination.decode_sorted_cursor(cursor)
    if made_for not in sorts or sort not in (None, made_for):
        raise pagination.invalid_cursor()
    return (made_for, "null", [id]) if value is None else (made_for, "value", [value, id])


def _values(of: TableOperation, body: Mapping[str, Any]) -> list[str | None]:
    return [
        column_values.to_postgres(column, body.get(column.name, column.default))
        for column in of.columns
    ]


def _patch(of: TableOperation, body: Mapping[str, Any]) -> list[str | None]:
    """Return what `resources.update` binds, but for the tags."""
    values: list[str | None] = []
    for column in of.columns:
        values += (
            column_values.boolean_text(column.name in body),
            column_values.to_postgres(column, body.get(column.name)),
        )
    return (
        [*values, column_values.boolean_text(bool(body))]
        if of.rows.table.column("updated_at")
        else values
    )


def _merged(
    body: Mapping[str, Any], checks: Mapping[str, Callable[[Any], list[Any]]], stored: Row
) -> Iterator[tuple[str, Any]]:
    """Yield the objects that a patch makes of those stored. Raises `Invalid`."""
    for (name, check), old in zip(checks.items(), stored, strict=True):
        if isinstance(body.get(name), dict):
            merged = column_values.merge_patch(orjson.loads(old or b"null"), body[name])
            for fault in check(merged):
                raise InvalidValue("body", f"/{name}{fault.pointer}", f"merged: {fault.detail}")
            yield name, merged


def _text_of(field: bytes | None) -> str:
    return (field or b"").decode()


def _is_header(parameter: Mapping[str, Any], name: str) -> bool:
    return bool(parameter["in"] == "header" and parameter["name"].lower() == name)
