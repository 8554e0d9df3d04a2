"""The rules for operations that the service serves from a table, without a handler."""

import re
from collections.abc import Callable, Iterator, Set
from typing import Any

from openapi.documents import (
    NodePath,
    each_operation,
    function_name,
    list_at,
    mapping_at,
    parameters_of,
    resolve,
)
from openapi.rules import table_lists
from openapi.rules.messages import Violation, missing_responses
from openapi.tables import METHOD_BY_VERB, SERVICE_COLUMNS, schemas


def check(document: Any, handlers_of: Callable[[str], Set[str]]) -> Iterator[Violation]:
    """Yield why operations cannot be served from their tables.

    `handlers_of(tag)` returns the functions of the tag's handler module. Operations with a handler
    are exempt.
    """
    for _, schema in schemas(document):
        table = schema["x-table"].get("name")
        if isinstance(table, str):
            yield from _operations(document, table, schema, handlers_of(table))


def _operations(
    document: Any, table: str, schema: dict[str, Any], handlers: Set[str]
) -> Iterator[Violation]:
    for path, _, operation in each_operation(document):
        id = operation.get("operationId")
        tag, _, verb = id.partition(".") if isinstance(id, str) else ("", "", "")
        if tag != table or verb not in METHOD_BY_VERB:
            continue
        if function_name(verb) in handlers:
            continue
        if path[2] != METHOD_BY_VERB[verb]:
            reason = f"`{verb}` of a table must be a {METHOD_BY_VERB[verb].upper()}"
            yield (*path, "operationId"), reason
            continue
        yield from _path(path, verb, schema)
        if verb in ("create", "replace", "update"):
            yield from _body(document, path, verb, operation, schema)
        if verb == "list":
            yield from table_lists.check(document, path, operation, schema)
        yield from _responses(document, path, verb, operation, schema)


def _path(path: NodePath, verb: str, schema: dict[str, Any]) -> Iterator[Violation]:
    """The path contains the organization, then columns of the row, then its id if it has one."""
    names = re.findall(r"\{([^{}]*)\}", str(path[1]))
    has_id = str(path[1]).endswith("}")
    needs_id = verb not in ("create", "list")
    if names[:1] != ["org_id"]:
        yield path, "the first path parameter of a table's operation must be {org_id}, the tenant"
    elif has_id != needs_id or (has_id and len(names) < 2):
        yield path, f"the path of `{verb}` must {'' if needs_id else 'not '}end in an id"
    for name in _columns_in_path(str(path[1])):
        if name not in mapping_at(schema, "x-table", "references"):
            yield path, f"path parameter `{name}` is not one of the table's references"


def _columns_in_path(path: str) -> list[str]:
    """Return the path parameters that are columns of the row, without the tenant and its id."""
    names = re.findall(r"\{([^{}]*)\}", path)
    return names[1:-1] if path.endswith("}") else names[1:]


def _body(
    document: Any, path: NodePath, verb: str, operation: Any, schema: dict[str, Any]
) -> Iterator[Violation]:
    """The properties of the body are columns, and required where the table needs a value."""
    columns = mapping_at(schema, "properties")
    in_path = _columns_in_path(str(path[1]))
    content = mapping_at(resolve(document, operation.get("requestBody")), "content")
    if not content:
        yield path, f"`{verb}` of a table must have a request body"
    for media_type, media in content.items():
        schema_path = (*path, "requestBody", "content", media_type, "schema")
        body = resolve(document, mapping_at(media).get("schema"))
        if not body:  # an unresolved $ref is reported by another rule
            continue
        for name, node in mapping_at(body, "properties").items():
            if name in in_path and name not in SERVICE_COLUMNS:
                yield schema_path, f"`{name}` is already in the path; remove it from the body"
                continue
            if name in SERVICE_COLUMNS or name not in columns:
                yield schema_path, f"`{name}` is not a column that clients can set"
                continue
            column = resolve(document, columns[name])
            reasons = _differences(
                resolve(document, node), column, is_nullable=_is_nullable(column, name, schema)
            )
            yield from ((schema_path, f"`{name}` {reason}") for reason in reasons)
        for name in columns if verb != "update" else ():
            column = resolve(document, columns[name])
            is_filled = name in SERVICE_COLUMNS or name in in_path or "default" in column
            if is_filled or _is_nullable(column, name, schema):
                continue
            if name not in list_at(body, "required"):
                reason = f"must require `{name}`: the column is NOT NULL and has no default"
                yield schema_path, reason


def _is_nullable(column: dict[str, Any], name: str, schema: dict[str, Any]) -> bool:
    return column.get("nullable") is True or name not in list_at(schema, "required")


def _differences(
    node: dict[str, Any], column: dict[str, Any], *, is_nullable: bool
) -> Iterator[str]:
    """Yield each reason why a property of a body accepts more than its column."""
    for key in ("type", "format"):
        if node.get(key) != column.get(key):
            actual, expected = (
                f"{key} {schema[key]}" if key in schema else f"no {key}"
                for schema in (node, column)
            )
            yield f"has {actual}, but the column has {expected}"
            return
    if node.get("nullable") is True and not is_nullable:
        yield "cannot be nullable: the column is NOT NULL"
    if "enum" in column:
        if not isinstance(node.get("enum"), list):
            yield "must be an enum, like the column"
        elif extra := [v for v in node["enum"] if v not in (*list_at(column, "enum"), None)]:
            yield f"accepts {extra[0]!r}, which the column does not"
    if "enum" in column or "enum" in node:
        return
    if "pattern" in column and node.get("pattern") != column["pattern"]:
        yield "must have the column's pattern"
    for key, sign in (("maxLength", 1), ("maximum", 1), ("minLength", -1), ("minimum", -1)):
        limit, other = column.get(key), node.get(key)
        if isinstance(limit, int | float) and not (
            isinstance(other, int | float) and other * sign <= limit * sign
        ):
            yield f"has a wider {key} than the column"
    for key in ("exclusiveMaximum", "exclusiveMinimum"):
        if column.get(key) is True and node.get(key) is not True:
            yield f"must have `{key}: true`, like the column"


def _responses(
    document: Any, path: NodePath, verb: str, operation: Any, schema: dict[str, Any]
) -> Iterator[Violation]:
    """The responses declare each conflict that can occur, and contain whole rows."""
    responses, responses_path = mapping_at(operation, "responses"), (*path, "responses")
    if "409" not in responses:
        if verb in ("create", "replace", "update") and list_at(schema["x-table"], "unique"):
            yield responses_path, f"{missing_responses(['409'])}: the table has a unique key"
        if verb == "delete" and (table := _blocking_table(document, schema["x-table"].get("name"))):
            reason = f"rows of `{table}` can reference the row and block its deletion"
            yield responses_path, f"{missing_responses(['409'])}: {reason}"
    for code in (code for code in responses if str(code).startswith("2")):
        content = mapping_at(resolve(document, responses[code]), "content")
        for media_type, media in content.items():
            row = resolve(document, mapping_at(media).get("schema"))
            if verb == "list":
                row = resolve(document, mapping_at(row, "properties", "items").get("items"))
            if row != schema:
                schema_path = (*responses_path, code, "content", media_type, "schema")
                yield schema_path, "must be the table's schema: responses contain whole rows"
    if "412" not in responses and ("If-Match", "header") in parameters_of(document, path):
        yield responses_path, f"{missing_responses(['412'])}: the operation accepts If-Match"


def _blocking_table(document: Any, table: Any) -> str | None:
    """Return a table whose rows block deleting rows of `table`, directly or through a cascade."""
    pending, visited = [table], set()
    while pending:
        visited.add(target := pending.pop())
        for _, schema in schemas(document):
            name = schema["x-table"].get("name")
            for reference in mapping_at(schema, "x-table", "references").values():
                if mapping_at(reference).get("table") != target:
                    continue
                if mapping_at(reference).get("on_delete") != "cascade":
                    return str(name)
                if isinstance(name, str) and name not in visited:
                    pending.append(name)
    return None
