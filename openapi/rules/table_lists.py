"""The rules for lists that the service serves from a table: filters, order and cursors."""

import re
from collections.abc import Iterator
from typing import Any

from openapi.documents import NodePath, list_at, mapping_at, parameters_of, resolve
from openapi.rules.messages import Violation
from openapi.tables import SCALARS

CURSOR_PATTERN = "^[A-Za-z0-9_-]+$"
ID_CURSOR_CHARACTERS = 22  # a cursor of a list without `sort`
MAX_SCALAR_BYTES = 48  # a number, time or id as text
ID_BYTES = 36


def check(
    document: Any, path: NodePath, operation: Any, schema: dict[str, Any]
) -> Iterator[Violation]:
    """Each query parameter is `limit`, `cursor`, `sort`, or a column to filter by."""
    columns = mapping_at(schema, "properties")
    for (name, location), (parameter_path, parameter) in parameters_of(document, path).items():
        if location != "query" or name in ("limit", "cursor"):
            continue
        if f"{{{name}}}" in str(path[1]):
            yield parameter_path, f"`{name}` is already in the path"
        parameter_schema = resolve(document, parameter.get("schema"))
        column = resolve(document, columns.get(name))
        if name == "sort":
            values = list_at(parameter_schema, "enum")
            yield from _sort(document, path, operation, parameter_path, values, columns)
        elif column.get("type") not in SCALARS:
            yield parameter_path, f"`{name}` is not a scalar column: lists cannot filter by it"
        elif any(parameter_schema.get(key) != column.get(key) for key in ("type", "format")):
            yield parameter_path, f"`{name}` must have the type and format of the column"


def _sort(
    document: Any,
    path: NodePath,
    operation: Any,
    parameter_path: NodePath,
    values: list[Any],
    columns: dict[str, Any],
) -> Iterator[Violation]:
    """The values of `sort` are scalar columns, and cursors are long enough for their values."""
    if not values:
        reason = "`sort` must have an `enum` of columns, with `-` in front for descending order"
        yield parameter_path, reason
    length = ID_CURSOR_CHARACTERS
    for value in values:
        column = resolve(document, columns.get(str(value).removeprefix("-")))
        if column.get("type") in SCALARS:
            length = max(length, max_cursor_length(str(value), column))
        else:
            yield parameter_path, f"`sort` accepts scalar columns only, and {value!r} is not one"
    for cursor_path, cursor in _cursors(document, path, operation):
        if not _accepts_cursors(cursor, length):
            form = f"{{type: string, maxLength: {length}, pattern: '{CURSOR_PATTERN}'}}"
            yield cursor_path, f"is too narrow for the cursors of a sorted list; write {form}"


def max_cursor_length(sort: str, column: dict[str, Any]) -> int:
    """Return the length in characters of the longest cursor of a sorted list.

    `db.sql.pagination` encodes `["sort","value","id"]` as base64; a character of the value has at
    most 4 bytes.
    """
    options, max_length = list_at(column, "enum"), column.get("maxLength")
    if options:
        value_bytes = max(len(str(option).encode()) for option in options)
    else:
        value_bytes = 4 * max_length if isinstance(max_length, int) else MAX_SCALAR_BYTES
    return -(-4 * (len('["","",""]') + len(sort) + value_bytes + ID_BYTES) // 3)


def _cursors(
    document: Any, path: NodePath, operation: Any
) -> Iterator[tuple[NodePath, dict[str, Any]]]:
    """Yield the schemas of the parameter `cursor` and of the property `next` of the responses."""
    parameters = parameters_of(document, path)
    if ("cursor", "query") in parameters:
        parameter_path, parameter = parameters["cursor", "query"]
        yield parameter_path, resolve(document, parameter.get("schema"))
    for code, response in mapping_at(operation, "responses").items():
        if not str(code).startswith("2"):
            continue
        for media_type, media in mapping_at(resolve(document, response), "content").items():
            page = resolve(document, mapping_at(media).get("schema"))
            if "next" in mapping_at(page, "properties"):
                schema_path = (*path, "responses", code, "content", media_type, "schema")
                next_path = (*schema_path, "properties", "next")
                yield next_path, resolve(document, page["properties"]["next"])


def _accepts_cursors(schema: dict[str, Any], length: int) -> bool:
    """Return whether a schema accepts every sorted cursor of up to `length` characters."""
    max_length, pattern = schema.get("maxLength"), schema.get("pattern", "")
    if not isinstance(max_length, int) or not isinstance(pattern, str):
        return True  # another rule reports it
    probe = ("WyJ4-_" * length)[: length - 1]
    try:
        return max_length >= length and all(re.search(pattern, probe + end) for end in "A9-_z")
    except re.error:
        return True
