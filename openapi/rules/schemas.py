"""The rules for schemas."""

import re
import warnings
from collections.abc import Iterator
from typing import Any

import jsonschema_rs

from openapi.documents import list_at, mapping_at
from openapi.object_tree import SpecObject
from openapi.rules.messages import Violation, quote, suggest

BOUNDED_FORMATS = ("uuid", "date-time", "date", "ipv4", "ipv6")
TYPE_BY_FORMAT = {
    **dict.fromkeys((*BOUNDED_FORMATS, "email", "uri", "byte"), "string"),
    **dict.fromkeys(("int32", "int64"), "integer"),
    **dict.fromkeys(("float", "double"), "number"),
}


def check_schemas(objects: list[SpecObject]) -> Iterator[Violation]:
    """Every schema has a type, is closed, and limits the values it accepts."""
    kinds = {path: kind for path, kind, _ in objects}
    for path, kind, node in objects:
        if kind != "schema" or "$ref" in node:
            continue
        is_of_parameter = kinds.get(path[:-1]) == "parameter"
        is_branch = isinstance(path[-1], int) or path[-1] == "not"
        if not is_of_parameter and not is_branch and not _is_typed(node):
            yield path, "`type` is missing"
        yield from ((path, reason) for reason in _missing_limits(node))
        if reason := _format_issue(node.get("format"), node.get("type")):
            yield (*path, "format"), reason
        if reason := _pattern_issue(node.get("pattern")):
            yield (*path, "pattern"), reason


def _is_typed(node: Any) -> bool:
    if not isinstance(node, dict) or "type" in node or "$ref" in node:
        return True  # the referenced schema is checked for its own type
    all_of, any_of, one_of = (
        [_is_typed(branch) for branch in list_at(node, key)] for key in ("allOf", "anyOf", "oneOf")
    )
    return any(all_of) or all(any_of or one_of or [False])


def _missing_limits(node: dict[str, Any]) -> Iterator[str]:
    type_, additional = node.get("type"), node.get("additionalProperties", True)
    if (type_ == "object" or "properties" in node) and additional is True:
        yield "object must be closed: add `additionalProperties: false`"
    if additional is False:
        for name in list_at(node, "required"):
            if isinstance(name, str) and name not in mapping_at(node, "properties"):
                yield f"requires `{name}`, which is not one of its properties"
    if type_ == "array":
        yield from _missing_keys(node, "items", "maxItems")
    if type_ == "string" and "enum" not in node:
        format = node.get("format")
        is_known = not isinstance(format, str) or format in TYPE_BY_FORMAT
        if is_known and format not in BOUNDED_FORMATS:
            yield from _missing_keys(node, "maxLength")
        if "pattern" not in node and "format" not in node:
            yield "string must have a `pattern`, an `enum` or a `format`"
    if type_ in ("integer", "number") and "enum" not in node:
        yield from _missing_keys(node, "minimum", "maximum")
    yield from inverted_limits(node)


def _missing_keys(node: dict[str, Any], *keys: str) -> Iterator[str]:
    yield from (f"`{key}` is missing" for key in keys if key not in node)


def inverted_limits(node: dict[str, Any]) -> Iterator[str]:
    """Yield a reason for each minimum of `node` that is greater than its maximum."""
    for noun in ("", "imum", "Length", "Items", "Properties"):
        low, high = node.get(f"min{noun}"), node.get(f"max{noun}")
        if isinstance(low, int | float) and isinstance(high, int | float) and low > high:
            yield f"min{noun} is greater than max{noun}"


def _format_issue(format: Any, type_: Any) -> str | None:
    if not isinstance(format, str):
        return None
    if format not in TYPE_BY_FORMAT:
        return f"unknown format {quote(format)}{suggest(format, TYPE_BY_FORMAT)}"
    if type_ != TYPE_BY_FORMAT[format]:
        return f"format {format} requires `type: {TYPE_BY_FORMAT[format]}`"
    return None


def _pattern_issue(pattern: Any) -> str | None:
    """Return why Python's `re` and the Rust engine may not read a pattern alike, or None."""
    if not isinstance(pattern, str):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            re.compile(pattern)
        validator = jsonschema_rs.Draft4Validator({"pattern": pattern})
    except (re.error, Warning, OverflowError, RecursionError) as error:
        return f"is not a valid regular expression for Python: {error}"
    except ValueError:
        return "is not a valid ECMA-262 regular expression, which JSON Schema requires"
    if not (pattern.startswith("^") and pattern.endswith("$")):
        return "must be anchored: write `^…$`"
    filler = "a" * 8
    probes = (filler[:n] + "\0" + filler[:m] for n in range(9) for m in range(9))
    if any(validator.is_valid(probe) for probe in probes):
        return "must not match NUL (U+0000), which PostgreSQL cannot store"
    return None
