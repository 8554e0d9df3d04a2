"""The rules of the lists that the generic handler serves: filters, order, and the next page."""

import re
from collections.abc import Iterator
from typing import Any

from openapi.documents import NodePath, list_at, mapping_at, parameters_of, resolve
from openapi.rules.messages import Violation
from openapi.tables import SCALARS

CURSOR = "^[A-Za-z0-9_-]+$"
PLAIN = 22  # characters of a cursor that is an id
LONGEST_SCALAR = 48  # bytes of a number, time or id as text
ID = 36


def check(
    document: Any, place: NodePath, operation: Any, schema: dict[str, Any]
) -> Iterator[Violation]:
    """Query parameters of a list are its page, a column that filters, or `sort`."""
    columns = mapping_at(schema, "properties")
    for (name, where), (at, parameter) in parameters_of(document, place).items():
        if where != "query" or name in ("limit", "cursor"):
            continue
        if f"{{{name}}}" in str(place[1]):
            yield at, f"`{name}` is in the path already"
        sent = resolve(document, parameter.get("schema"))
        column = resolve(document, columns.get(name))
        if name == "sort":
            yield from _sort(document, place, operation, at, list_at(sent, "enum"), columns)
        elif column.get("type") not in SCALARS:
            yield at, f"`{name}` is no column to filter by"
        elif any(sent.get(key) != column.get(key) for key in ("type", "format")):
            yield at, f"`{name}` has another type than the column"


def _sort(
    document: Any,
    place: NodePath,
    operation: Any,
    at: NodePath,
    values: list[Any],
    columns: dict[str, Any],
) -> Iterator[Violation]:
    if not values:
        yield at, "`sort` has an `enum`: columns, with `-` before one that goes down"
    most = PLAIN
    for value in values:
        column = resolve(document, columns.get(str(value).removeprefix("-")))
        if column.get("type") in SCALARS:
            most = max(most, longest_cursor(str(value), column))
        else:
            yield at, f"`sort` is an enum of columns that are no objects: {value!r} is none"
    for where, cursor in _cursors(document, place, operation):
        if not _takes(cursor, most):
            form = f"{{type: string, maxLength: {most}, pattern: '{CURSOR}'}}"
            yield where, f"is too narrow for the cursors of a list with `sort`: write {form}"


def longest_cursor(sort: str, column: dict[str, Any]) -> int:
    """Return the characters of the longest cursor that `db.sql.pagination.sorted_cursor` makes: base64 of
    `["sort","value","id"]`, where a character of the value has at most 4 bytes."""
    options, most = list_at(column, "enum"), column.get("maxLength")
    if options:
        value = max(len(str(option).encode()) for option in options)
    else:
        value = 4 * most if isinstance(most, int) else LONGEST_SCALAR
    return -(-4 * (len('["","",""]') + len(sort) + value + ID) // 3)


def _cursors(
    document: Any, place: NodePath, operation: Any
) -> Iterator[tuple[NodePath, dict[str, Any]]]:
    """Yield the schemas of the parameter `cursor` and of the `next` that is answered."""
    at, parameter = parameters_of(document, place).get(("cursor", "query"), (place, {}))
    if parameter:
        yield at, resolve(document, parameter.get("schema"))
    for code, answer in mapping_at(operation, "responses").items():
        if not str(code).startswith("2"):
            continue
        for kind, media in mapping_at(resolve(document, answer), "content").items():
            body = resolve(document, mapping_at(media).get("schema"))
            if "next" in mapping_at(body, "properties"):
                here = (*place, "responses", code, "content", kind, "schema")
                yield (*here, "properties", "next"), resolve(document, body["properties"]["next"])


def _takes(cursor: dict[str, Any], most: int) -> bool:
    """Whether a schema lets in all that sorted cursors are, up to `most` characters."""
    longest, pattern = cursor.get("maxLength"), cursor.get("pattern", "")
    if not isinstance(longest, int) or not isinstance(pattern, str):
        return True  # which is a fault of its own
    probe = ("WyJ4-_" * most)[: most - 1]
    try:
        return longest >= most and all(re.search(pattern, probe + last) for last in "A9-_z")
    except re.error:
        return True
