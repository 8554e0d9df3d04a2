"""Examples, defaults and enum values, held against their schemas."""

import base64
import binascii
import copy
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import jsonschema_rs

from openapi.documents import NodePath, SpecObject, list_at, locate, mapping_at, walk
from openapi.rules.messages import Violation
from openapi.rules.structure import site


def examples(
    document: dict[str, Any], objects: list[SpecObject], unbuilt: list[Violation]
) -> Iterator[Violation]:
    """Every example, default and enum value is valid against its schema.

    A schema that no validator can be built from goes to `unbuilt`: another rule has its cause.
    """
    base = "contract:///"
    try:
        registry = jsonschema_rs.Registry([(base, _as_draft4(document))], draft=4)
    except (ValueError, jsonschema_rs.ReferencingError) as error:
        unbuilt.append(((), f"no validator can be built: {error}"))
        return
    for place, kind, node in objects:
        if "$ref" in node or not (kind == "schema" or "schema" in node):
            continue
        owner = place if kind == "schema" else (*place, "schema")
        values = list(_values(document, place, kind, node))
        if not values:
            continue
        pointer = "/".join(quote(str(k).replace("~", "~0").replace("/", "~1")) for k in owner)
        try:
            validator = jsonschema_rs.Draft4Validator(
                {"$ref": f"{base}#/{pointer}"},
                registry=registry,
                validate_formats=True,
                formats={"uuid": _is_uuid, "byte": _is_base64},
            )
        except (ValueError, jsonschema_rs.ReferencingError) as error:
            unbuilt.append((owner, f"no validator can be built: {error}".splitlines()[0]))
            continue
        for where, value in values:
            for fault in validator.iter_errors(value):
                yield (*where, *site(fault, value)[0]), f"not valid: {fault.message}"


def _values(document: Any, place: NodePath, kind: str, node: Any) -> Iterator[tuple[NodePath, Any]]:
    for key in ("example", "default") if kind == "schema" else ("example",):
        if key in node:
            yield (*place, key), node[key]
    for i, value in enumerate(list_at(node, "enum") if kind == "schema" else ()):
        yield (*place, "enum", i), value
    for name, entry in mapping_at(node, "examples").items() if kind != "schema" else ():
        where: NodePath = (*place, "examples", name)
        if isinstance(ref := mapping_at(entry).get("$ref"), str):
            where, entry = locate(document, ref)
        if "value" in mapping_at(entry):
            yield (*where, "value"), entry["value"]


def _as_draft4(document: dict[str, Any]) -> dict[str, Any]:
    """Return the document with `nullable`, which JSON Schema lacks, spelt out."""
    spelt = copy.deepcopy(document)
    for _, kind, node in walk(spelt):
        if kind == "schema" and node.get("nullable") is True and isinstance(node.get("type"), str):
            node["type"] = [node["type"], "null"]
            if "enum" in node:
                node["enum"] = [*list_at(node, "enum"), None]
    return spelt


def _is_uuid(text: str) -> bool:
    return bool(re.fullmatch(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", text))


def _is_base64(text: str) -> bool:
    try:
        base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return False
    return True
