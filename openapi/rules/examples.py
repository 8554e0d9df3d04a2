"""The rule for examples, defaults and enum values: each must match its schema."""

import base64
import binascii
import copy
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import jsonschema_rs

from openapi.documents import NodePath, list_at, locate, mapping_at
from openapi.object_tree import Kind, SpecObject, walk
from openapi.rules.messages import Violation
from openapi.rules.structure import locate_error

BASE_URI = "contract:///"


def check_examples(
    document: dict[str, Any], objects: list[SpecObject], build_errors: list[Violation]
) -> Iterator[Violation]:
    """Every example, default and enum value matches its schema.

    A schema that no validator can be built from is added to `build_errors`: another rule reports
    the cause.
    """
    try:
        registry = jsonschema_rs.Registry([(BASE_URI, _as_draft4(document))], draft=4)
    except (ValueError, jsonschema_rs.ReferencingError) as error:
        build_errors.append(((), f"no validator can be built: {error}"))
        return
    for path, kind, node in objects:
        if "$ref" in node or not (kind == "schema" or "schema" in node):
            continue
        schema_path = path if kind == "schema" else (*path, "schema")
        values = list(_values(document, path, kind, node))
        if not values:
            continue
        try:
            validator = jsonschema_rs.Draft4Validator(
                {"$ref": f"{BASE_URI}#/{_pointer(schema_path)}"},
                registry=registry,
                validate_formats=True,
                formats={"uuid": _is_uuid, "byte": _is_base64},
            )
        except (ValueError, jsonschema_rs.ReferencingError) as error:
            reason = f"no validator can be built: {error}".splitlines()[0]
            build_errors.append((schema_path, reason))
            continue
        for value_path, value in values:
            for mismatch in validator.iter_errors(value):
                inner_path, _ = locate_error(mismatch, value)
                yield (*value_path, *inner_path), f"does not match its schema: {mismatch.message}"


def _values(document: Any, path: NodePath, kind: Kind, node: Any) -> Iterator[tuple[NodePath, Any]]:
    """Yield the path and value of everything that the schema of `node` must accept."""
    for key in ("example", "default") if kind == "schema" else ("example",):
        if key in node:
            yield (*path, key), node[key]
    for i, value in enumerate(list_at(node, "enum") if kind == "schema" else ()):
        yield (*path, "enum", i), value
    for name, entry in mapping_at(node, "examples").items() if kind != "schema" else ():
        entry_path: NodePath = (*path, "examples", name)
        if isinstance(ref := mapping_at(entry).get("$ref"), str):
            entry_path, entry = locate(document, ref)
        if "value" in mapping_at(entry):
            yield (*entry_path, "value"), entry["value"]


def _pointer(path: NodePath) -> str:
    """Return a path as a JSON Pointer (RFC 6901) for a URI fragment."""
    return "/".join(quote(str(key).replace("~", "~0").replace("/", "~1")) for key in path)


def _as_draft4(document: dict[str, Any]) -> dict[str, Any]:
    """Return the document with `nullable`, which JSON Schema does not have, as type `null`."""
    converted = copy.deepcopy(document)
    for _, kind, node in walk(converted):
        if kind == "schema" and node.get("nullable") is True and isinstance(node.get("type"), str):
            node["type"] = [node["type"], "null"]
            if "enum" in node:
                node["enum"] = [*list_at(node, "enum"), None]
    return converted


def _is_uuid(text: str) -> bool:
    return bool(re.fullmatch(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", text))


def _is_base64(text: str) -> bool:
    try:
        base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return False
    return True
