"""The structure of a contract, by the JSON Schemas of OpenAPI and of the x- keys."""

import re
from collections.abc import Iterator
from typing import Any

import jsonschema_rs

from openapi.documents import NodePath, SpecObject, list_at, mapping_at
from openapi.rules.messages import Violation, enumerate_names, not_in, quote, suggest
from openapi.rules.schemas import crossed


def structure(
    document: Any, objects: list[SpecObject], openapi: dict[str, Any], extensions: dict[str, Any]
) -> Iterator[Violation]:
    validator = jsonschema_rs.Draft4Validator(openapi, validate_formats=False)
    for error in validator.iter_errors(document):
        yield from _causes(error, openapi, document)
    for reason in crossed(mapping_at(document, "x-service", "scaling")):
        yield ("x-service", "scaling"), reason
    homes = extensions["properties"]
    own_words = jsonschema_rs.Draft202012Validator(extensions)
    for place, kind, node in objects:
        home = kind if kind in homes else "other"
        words = {home: {key: value for key, value in node.items() if key.startswith("x-")}}
        for error in own_words.iter_errors(words) if words[home] or not place else ():
            for inner, reason in _causes(error, extensions, words):
                right = [h for h in homes if inner[1:] and inner[1] in homes[h]["properties"]]
                if len(inner) == 2 and right and home not in right:
                    reason = f"stands in the wrong place: it belongs to {enumerate_names(right)}"
                yield (*place, *inner[1:]), reason


def _causes(error: Any, schema: Any, instance: Any) -> Iterator[Violation]:
    """Yield what is behind an error; of a oneOf that fails, the faults of the branch meant."""
    kind = error.kind
    place, value = site(error, instance)
    match kind.name:
        case "oneOf" | "anyOf" if any(kind.context):
            yield from _causes_of_branches(place, kind.context, schema, instance)
        case "additionalProperties":
            for step in error.schema_path[:-1]:
                schema = schema[step]
            known = [*mapping_at(schema, "properties")]
            known += re.findall("[a-z]{3,}", " ".join(mapping_at(schema, "patternProperties")))
            for key in kind.unexpected:
                yield (*place, key), f"unknown key{suggest(key, known)}"
        case "required":
            yield place, f"lacks `{kind.property}`"
        case "type":
            scalar = kind.types == ["string"] and not isinstance(value, dict | list | None)
            hint = ": quote it" if scalar else _hint(kind.types, value, schema, error)
            yield place, f"must be {enumerate_names(kind.types)}, not {quote(value)}{hint}"
        case "enum":
            hint = ": write one, and `nullable: true`" if _is_of_31(place, value) else ""
            yield place, not_in(value, kind.options) + hint
        case "not" if "required" in mapping_at(kind.schema):
            yield place, f"may not carry both {enumerate_names(kind.schema['required'], 'and')}"
        case "pattern" if place == ("openapi",):
            yield place, f"only OpenAPI 3.0.x is served, not {quote(value)}"
        case _:
            yield place, error.message


def _is_of_31(place: NodePath, value: Any) -> bool:
    """Whether this is a list of types, as OpenAPI 3.1 has them."""
    return place[-1:] == ("type",) and isinstance(value, list) and "null" in value


def _hint(types: list[str], value: Any, schema: Any, error: Any) -> str:
    """Return what an object needs, or a list holds, where the schema says so."""
    try:
        for step in error.schema_path[:-1]:
            schema = schema[step]
    except (LookupError, TypeError):
        return ""
    if types == ["object"] and (required := list_at(schema, "required")):
        return f": write {{{', '.join(f'{name}: …' for name in required)}}}"
    if types == ["array"] and isinstance(value, str):
        inside = bool(error.instance_path) and isinstance(error.instance_path[-1], int)
        return ": a list of lists, as in [[a, b]]" if inside else f": write [{value}]"
    return ""


def _causes_of_branches(
    place: NodePath, branches: list[list[Any]], schema: Any, instance: Any
) -> Iterator[Violation]:
    def was_meant(error: Any) -> bool:
        below = error.instance_path[len(place) :]
        if error.kind.name == "enum" and below:
            return below[-1] not in ("in", "type", "scheme")
        is_reference = error.kind.name == "required" and error.kind.property == "$ref"
        return not is_reference and (error.kind.name != "type" or bool(below))

    errors = [error for branch in branches for error in branch]
    likely = [branch for branch in branches if branch and all(map(was_meant, branch))]
    discriminators = [error for error in errors if error.kind.name == "enum"]
    if likely:
        for error in max(likely, key=lambda branch: max(len(e.instance_path) for e in branch)):
            yield from _causes(error, schema, instance)
    elif discriminators:
        where, value = site(discriminators[0], instance)
        hint = ": write one, and `nullable: true`" if _is_of_31(where, value) else ""
        yield where, not_in(value, [o for e in discriminators for o in e.kind.options]) + hint
    else:
        yield from _causes(errors[0], schema, instance)


def site(error: Any, instance: Any) -> tuple[NodePath, Any]:
    """Return where in `instance` a validator's error is, and what stands there."""
    place: NodePath = ()
    for step in error.instance_path:  # a key such as "200" arrives as a number, an empty one never
        key = str(step) if isinstance(instance, dict) else step
        try:
            place, instance = (*place, key), instance[key]
        except (LookupError, TypeError):
            break
    return place, instance
