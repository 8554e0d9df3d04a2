"""The rules of the operations that the generic handler serves from the tables of a contract."""

import re
from collections.abc import Callable, Iterator, Set
from typing import Any

from openapi.documents import (
    NodePath,
    each_operation,
    function_of,
    list_at,
    mapping_at,
    parameters_of,
    resolve,
)
from openapi.rules import table_lists
from openapi.rules.messages import Violation
from openapi.tables import METHOD_BY_VERB, SERVICE_COLUMNS, schemas


def check(document: Any, functions_of: Callable[[str], Set[str] | str]) -> Iterator[Violation]:
    """Yield what keeps operations from being served from their tables.

    `functions_of(tag)` are the functions of the user's own module, or what is wrong with it: what
    they handle is theirs.
    """
    for _, schema in schemas(document):
        yield from _operations(document, schema, functions_of)


def _operations(
    document: Any, schema: dict[str, Any], functions_of: Callable[[str], Set[str] | str]
) -> Iterator[Violation]:
    name = schema["x-table"].get("name")
    own = functions_of(name) if isinstance(name, str) else ""
    for place, _, operation in each_operation(document):
        id = operation.get("operationId")
        tag, _, verb = id.partition(".") if isinstance(id, str) else ("", "", "")
        if tag != name or verb not in METHOD_BY_VERB:
            continue
        if isinstance(own, Set) and function_of(verb) in own:
            continue
        if place[2] != METHOD_BY_VERB[verb]:
            yield (
                (*place, "operationId"),
                f"`{verb}` of a table is a {METHOD_BY_VERB[verb].upper()}",
            )
            continue
        yield from _path(document, place, verb, schema)
        if verb in ("create", "replace", "update"):
            yield from _body(document, place, verb, operation, schema)
        if verb == "list":
            yield from table_lists.check(document, place, operation, schema)
        yield from _answers(document, place, verb, operation, schema)


def _answers(
    document: Any, place: NodePath, verb: str, operation: Any, schema: dict[str, Any]
) -> Iterator[Violation]:
    """What can stand in the way of a change is among the answers."""
    codes, here = mapping_at(operation, "responses"), (*place, "responses")
    parameters = parameters_of(document, place)
    if "409" not in codes:
        if verb in ("create", "replace", "update") and list_at(schema["x-table"], "unique"):
            yield here, "lacks 409: the table has a unique key"
        if verb == "delete" and (by := _held_by(document, schema["x-table"].get("name"))):
            yield here, f"lacks 409: rows of `{by}` keep what they refer to"
    for code in (code for code in codes if str(code).startswith("2")):
        media = mapping_at(resolve(document, codes[code]), "content")
        for kind, holder in media.items():
            answered = resolve(document, mapping_at(holder).get("schema"))
            if verb == "list":
                answered = resolve(
                    document, mapping_at(answered, "properties", "items").get("items")
                )
            if answered != schema:
                at = (*here, code, "content", kind, "schema")
                yield at, "is not the table's schema, and all of a row is answered"
    if "412" not in codes and ("If-Match", "header") in parameters:
        yield here, "lacks 412, which a stale If-Match is answered with"


def _held_by(document: Any, name: Any) -> str | None:
    """Return a table whose rows keep those of `name`, or those that would go with them."""
    names, seen = [name], set()
    while names:
        seen.add(name := names.pop())
        for _, other in schemas(document):
            for to in mapping_at(other, "x-table", "references").values():
                by = other["x-table"].get("name")
                if (
                    mapping_at(to).get("table") == name
                    and mapping_at(to).get("on_delete") != "cascade"
                ):
                    return str(by)
                if mapping_at(to).get("table") == name and by not in seen:
                    names.append(by)
    return None


def _path(document: Any, place: NodePath, verb: str, schema: dict[str, Any]) -> Iterator[Violation]:
    """The organization comes first, then columns of the row, then its id where there is one."""
    ids = re.findall(r"\{([^{}]*)\}", str(place[1]))
    ends_in_id = str(place[1]).endswith("}")
    if ids[:1] != ["org_id"]:
        yield place, "the path of a table's operation begins with {org_id}, the tenant"
    elif ends_in_id != (verb not in ("create", "list")) or (ends_in_id and len(ids) < 2):
        yield place, f"the path of `{verb}` {'ends' if not ends_in_id else 'does not end'} in an id"
    for id in _above(str(place[1])):
        if id not in mapping_at(schema, "x-table", "references"):
            yield place, f"the path names `{id}`, which is none of the table's references"


def _above(path: str) -> list[str]:
    """Return the ids in a path that are columns of the row: neither the tenant nor its own."""
    ids = re.findall(r"\{([^{}]*)\}", path)
    return ids[1:-1] if path.endswith("}") else ids[1:]


def _body(
    document: Any, place: NodePath, verb: str, operation: Any, schema: dict[str, Any]
) -> Iterator[Violation]:
    columns = mapping_at(schema, "properties")
    given = _above(str(place[1]))
    media = mapping_at(resolve(document, operation.get("requestBody")), "content")
    if not media:
        yield place, f"`{verb}` of a table has a body"
    for kind, holder in media.items():
        here = (*place, "requestBody", "content", kind, "schema")
        body = resolve(document, mapping_at(holder).get("schema"))
        if not body:  # what it refers to is not there
            continue
        for name, node in mapping_at(body, "properties").items():
            if name in given and name not in SERVICE_COLUMNS:
                yield here, f"`{name}` is in the path already"
                continue
            if name in SERVICE_COLUMNS or name not in columns:
                yield here, f"`{name}` is no column that clients fill"
                continue
            column = resolve(document, columns[name])
            nullable = _may_be_null(column, name, schema)
            reasons = _wider(resolve(document, node), column, nullable)
            yield from ((here, f"`{name}` {reason}") for reason in reasons)
        for name in columns if verb != "update" else ():
            column = resolve(document, columns[name])
            is_filled = name in SERVICE_COLUMNS or name in given or "default" in column
            may_be_null = _may_be_null(column, name, schema)
            if not is_filled and not may_be_null and name not in list_at(body, "required"):
                yield here, f"does not require `{name}`, a column that is never empty"


def _may_be_null(column: dict[str, Any], name: str, schema: dict[str, Any]) -> bool:
    return column.get("nullable") is True or name not in list_at(schema, "required")


def _wider(sent: dict[str, Any], column: dict[str, Any], nullable: bool) -> Iterator[str]:
    """Say what a body lets in that the column does not take."""
    for key in ("type", "format"):
        if sent.get(key) != column.get(key):
            was, now = (one.get(key, "none") for one in (column, sent))
            yield f"has another {key} than the column: {now}, and not {was}"
            return
    if sent.get("nullable") is True and not nullable:
        yield "may be null, and the column may not"
    if "enum" in column:
        if not isinstance(sent.get("enum"), list):
            yield "is no enum, and the column is"
        elif extra := [v for v in sent["enum"] if v not in (*list_at(column, "enum"), None)]:
            yield f"may be {extra[0]!r}, and the column may not"
    if "enum" in column or "enum" in sent:
        return
    if "pattern" in column and sent.get("pattern") != column["pattern"]:
        yield "has another pattern than the column"
    for key, sign in (("maxLength", 1), ("maximum", 1), ("minLength", -1), ("minimum", -1)):
        bound, other = column.get(key), sent.get(key)
        if isinstance(bound, int | float) and not (
            isinstance(other, int | float) and other * sign <= bound * sign
        ):
            yield f"has a wider {key} than the column"
    for key in ("exclusiveMaximum", "exclusiveMinimum"):
        if column.get(key) is True and sent.get(key) is not True:
            yield f"lacks the {key} of the column"
