"""The structure of a contract, checked with the JSON Schemas of OpenAPI and of the x- keys."""

import re
from collections.abc import Iterator
from typing import Any

import jsonschema_rs

from openapi.documents import NodePath, list_at, mapping_at, node_at
from openapi.object_tree import SpecObject
from openapi.rules.messages import Violation, enumerate_names, not_one_of, quote, suggest
from openapi.rules.schemas import inverted_limits

# The objects that may have x- keys, with their names in messages.
OWNERS = {
    "root": "at the root",
    "server": "in a server",
    "path": "in a path",
    "operation": "in an operation",
    "security_scheme": "in a security scheme",
    "schema": "in a schema",
}
TYPE_NAMES = {
    "array": "an array",
    "boolean": "a boolean",
    "integer": "an integer",
    "null": "null",
    "number": "a number",
    "object": "an object",
    "string": "a string",
}


def check_structure(
    document: Any, objects: list[SpecObject], openapi: dict[str, Any], extensions: dict[str, Any]
) -> Iterator[Violation]:
    """The document matches OpenAPI 3.0, and each x- key its schema.

    `extensions` has one property per kind of object that may have x- keys, and `other`.
    """
    validator = jsonschema_rs.Draft4Validator(openapi, validate_formats=False)
    for error in validator.iter_errors(document):
        yield from _causes(error, openapi, document)
    for reason in inverted_limits(mapping_at(document, "x-service", "scaling")):
        yield ("x-service", "scaling"), reason
    schemas = extensions["properties"]
    extension_validator = jsonschema_rs.Draft202012Validator(extensions)
    for path, kind, node in objects:
        owner = kind if kind in schemas else "other"
        keys = {key: value for key, value in node.items() if key.startswith("x-")}
        if not keys and path:
            continue
        instance = {owner: keys}
        for error in extension_validator.iter_errors(instance):
            for error_path, reason in _causes(error, extensions, instance):
                below = error_path[1:]
                owners = [o for o in schemas if below and below[0] in schemas[o]["properties"]]
                if len(below) == 1 and owners and owner not in owners:
                    reason = f"is allowed only {enumerate_names(OWNERS[o] for o in owners)}"
                yield (*path, *below), reason


def _causes(error: Any, schema: Any, instance: Any) -> Iterator[Violation]:
    """Yield the violations behind an error; for a failed oneOf, those of the intended branch."""
    kind = error.kind
    path, value = locate_error(error, instance)
    match kind.name:
        case "oneOf" | "anyOf" if any(kind.context):
            yield from _causes_in_branches(path, kind.context, schema, instance)
        case "additionalProperties":
            subschema = _failed_schema(error, schema)
            keys = [*mapping_at(subschema, "properties")]
            keys += re.findall("[a-z]{3,}", " ".join(mapping_at(subschema, "patternProperties")))
            for key in kind.unexpected:
                yield (*path, key), f"unknown key{suggest(key, keys)}"
        case "required":
            yield path, f"`{kind.property}` is missing"
        case "type":
            is_scalar = kind.types == ["string"] and not isinstance(value, dict | list | None)
            subschema = _failed_schema(error, schema)
            hint = "; quote it" if is_scalar else _type_hint(kind.types, value, subschema, error)
            expected = enumerate_names(TYPE_NAMES[name] for name in kind.types)
            yield path, f"must be {expected}, not {quote(value)}{hint}"
        case "enum":
            yield path, not_one_of(value, kind.options) + _nullable_hint(path, value)
        case "not" if "required" in mapping_at(kind.schema):
            keys = [f"`{key}`" for key in kind.schema["required"]]
            yield path, f"cannot have both {enumerate_names(keys, 'and')}"
        case "pattern" if path == ("openapi",):
            yield path, f"only OpenAPI 3.0.x is supported, not {quote(value)}"
        case "pattern" if description := _failed_schema(error, schema).get("description"):
            noun = description.partition(". ")[0].removesuffix(".")
            yield path, f"{quote(value)} is not {noun[0].lower()}{noun[1:]}"
        case _:
            yield path, error.message


def _failed_schema(error: Any, schema: Any) -> dict[str, Any]:
    """Return the schema that contains the keyword that failed, or an empty one."""
    try:
        return mapping_at(node_at(schema, tuple(error.schema_path[:-1])))
    except (LookupError, TypeError):
        return {}


def _nullable_hint(path: NodePath, value: Any) -> str:
    """Return what to write instead of a list of types with `null`, as in OpenAPI 3.1."""
    is_type_list = path[-1:] == ("type",) and isinstance(value, list) and "null" in value
    return "; write one type and `nullable: true`" if is_type_list else ""


def _type_hint(types: list[str], value: Any, schema: dict[str, Any], error: Any) -> str:
    """Return how to write the object or array that the schema requires, or an empty string."""
    if types == ["object"] and (required := list_at(schema, "required")):
        return f"; write {{{', '.join(f'{name}: …' for name in required)}}}"
    if types == ["array"] and isinstance(value, str):
        is_nested = bool(error.instance_path) and isinstance(error.instance_path[-1], int)
        return "; write a list of lists, as in [[a, b]]" if is_nested else f"; write [{value}]"
    return ""


def _causes_in_branches(
    path: NodePath, branches: list[list[Any]], schema: Any, instance: Any
) -> Iterator[Violation]:
    """Yield the violations of the branch that the author most likely intended.

    A branch is unlikely if its type, its `$ref` or its discriminator (in, type, scheme) fails.
    """

    def is_in_intended_branch(error: Any) -> bool:
        below = error.instance_path[len(path) :]
        if error.kind.name == "enum" and below:
            return below[-1] not in ("in", "type", "scheme")
        is_reference = error.kind.name == "required" and error.kind.property == "$ref"
        return not is_reference and (error.kind.name != "type" or bool(below))

    errors = [error for branch in branches for error in branch]
    likely = [branch for branch in branches if branch and all(map(is_in_intended_branch, branch))]
    discriminators = [error for error in errors if error.kind.name == "enum"]
    if likely:
        for error in max(likely, key=lambda branch: max(len(e.instance_path) for e in branch)):
            yield from _causes(error, schema, instance)
    elif discriminators:
        value_path, value = locate_error(discriminators[0], instance)
        options = [option for error in discriminators for option in error.kind.options]
        yield value_path, not_one_of(value, options) + _nullable_hint(value_path, value)
    else:
        yield from _causes(errors[0], schema, instance)


def locate_error(error: Any, instance: Any) -> tuple[NodePath, Any]:
    """Return the path of a validator's error in `instance`, and the value there."""
    path: NodePath = ()
    for step in error.instance_path:  # a key "200" arrives as a number, an empty key not at all
        key = str(step) if isinstance(instance, dict) else step
        try:
            path, instance = (*path, key), instance[key]
        except (LookupError, TypeError):
            break
    return path, instance
