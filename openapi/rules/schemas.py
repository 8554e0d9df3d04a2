"""The rules of schemas."""

import re
import warnings
from collections.abc import Iterator
from typing import Any

import jsonschema_rs

from openapi.documents import SpecObject, list_at, mapping_at
from openapi.rules.messages import Violation, quote, suggest

BOUNDED_FORMATS = ("uuid", "date-time", "date", "ipv4", "ipv6")
FORMATS = {
    **dict.fromkeys((*BOUNDED_FORMATS, "email", "uri", "byte"), "string"),
    **dict.fromkeys(("int32", "int64"), "integer"),
    **dict.fromkeys(("float", "double"), "number"),
}


def schemas(objects: list[SpecObject]) -> Iterator[Violation]:
    """Every schema says its type, is closed, and bounds what it lets in."""
    kinds = {place: kind for place, kind, _ in objects}
    for place, kind, node in objects:
        if kind != "schema" or "$ref" in node:
            continue
        of_parameter = kinds.get(place[:-1]) == "parameter"
        is_branch = isinstance(place[-1], int) or place[-1] == "not"
        if not of_parameter and not is_branch and not _is_typed(node):
            yield place, "lacks a `type`"
        yield from ((place, reason) for reason in _limits(node))
        if reason := _format_fault(node.get("format"), node.get("type")):
            yield (*place, "format"), reason
        if reason := _pattern_fault(node.get("pattern")):
            yield (*place, "pattern"), reason


def _is_typed(node: Any) -> bool:
    if not isinstance(node, dict) or "type" in node or "$ref" in node:
        return True  # what a $ref leads to is a schema, which says its own type
    all_of, any_of, one_of = (
        [_is_typed(branch) for branch in list_at(node, key)] for key in ("allOf", "anyOf", "oneOf")
    )
    return any(all_of) or all(any_of or one_of or [False])


def _limits(node: dict[str, Any]) -> Iterator[str]:
    kind, rest = node.get("type"), node.get("additionalProperties", True)
    if (kind == "object" or "properties" in node) and rest is True:
        yield "is open: write `additionalProperties: false`"
    if rest is False:
        for name in list_at(node, "required"):
            if isinstance(name, str) and name not in mapping_at(node, "properties"):
                yield f"requires `{name}`, which is none of its properties"
    if kind == "array":
        yield from (f"lacks `{key}`" for key in ("items", "maxItems") if key not in node)
    if kind == "string" and "enum" not in node:
        format = node.get("format")
        is_known = not isinstance(format, str) or format in FORMATS
        if "maxLength" not in node and is_known and node.get("format") not in BOUNDED_FORMATS:
            yield "lacks `maxLength`"
        if "pattern" not in node and "format" not in node:
            yield "lacks a `pattern`, an `enum` or a `format`"
    if kind in ("integer", "number") and "enum" not in node:
        yield from (f"lacks `{key}`" for key in ("minimum", "maximum") if key not in node)
    yield from crossed(node)


def _format_fault(name: Any, kind: Any) -> str | None:
    if isinstance(name, str) and name not in FORMATS:
        return f"unknown format {quote(name)}{suggest(name, FORMATS)}"
    if isinstance(name, str) and kind != FORMATS[name]:
        return f"format {name} is one of type {FORMATS[name]}"
    return None


def _pattern_fault(pattern: Any) -> str | None:
    """Say what keeps a pattern from meaning one thing to Python's `re` and to Rust's engine."""
    if not isinstance(pattern, str):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            re.compile(pattern)
        validator = jsonschema_rs.Draft4Validator({"pattern": pattern})
    except (re.error, Warning, OverflowError, RecursionError) as error:
        return f"no regular expression of Python: {error}"
    except ValueError:
        return "no regular expression of ECMA 262, as JSON Schema wants"
    if not (pattern.startswith("^") and pattern.endswith("$")):
        return "is not anchored: write `^…$`"
    text = "a" * 8
    probes = (text[:n] + "\0" + text[:m] for n in range(9) for m in range(9))
    if any(validator.is_valid(probe) for probe in probes):
        return "lets NUL through, which PostgreSQL cannot store"
    return None


def crossed(node: dict[str, Any]) -> Iterator[str]:
    for noun in ("", "imum", "Length", "Items", "Properties"):
        low, high = node.get(f"min{noun}"), node.get(f"max{noun}")
        if isinstance(low, int | float) and isinstance(high, int | float) and low > high:
            yield f"min{noun} is above max{noun}"
