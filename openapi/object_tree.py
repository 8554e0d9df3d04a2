"""The objects of an OpenAPI document: their kinds, and a walk over them."""

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from openapi.documents import METHODS, NodePath, list_at, mapping_at

Kind = Literal[
    "root",
    "info",
    "contact",
    "license",
    "server",
    "variable",
    "tag",
    "docs",
    "paths",
    "path",
    "operation",
    "callback",
    "parameter",
    "body",
    "responses",
    "response",
    "header",
    "media",
    "encoding",
    "example",
    "link",
    "schema",
    "discriminator",
    "xml",
    "security_scheme",
    "flows",
    "flow",
    "components",
]
ANY_KEY = "*"  # every key that the kind does not name, except x- keys


class SpecObject(NamedTuple):
    """An object that the OpenAPI specification defines: its path, its kind, and the node itself."""

    path: NodePath
    kind: Kind
    node: dict[str, Any]


class Child(NamedTuple):
    """What a key leads to: one object of `kind`, a list of them, or a map of them by name."""

    kind: Kind
    container: Literal["none", "list", "map"] = "none"


# By kind and key. A kind that is absent has no objects below it.
OBJECT_KINDS: dict[Kind, dict[str, Child]] = {
    "root": {
        "info": Child("info"),
        "servers": Child("server", "list"),
        "paths": Child("paths"),
        "components": Child("components"),
        "tags": Child("tag", "list"),
        "externalDocs": Child("docs"),
    },
    "info": {"contact": Child("contact"), "license": Child("license")},
    "server": {"variables": Child("variable", "map")},
    "tag": {"externalDocs": Child("docs")},
    "paths": {ANY_KEY: Child("path")},
    "path": {
        "servers": Child("server", "list"),
        "parameters": Child("parameter", "list"),
        **dict.fromkeys(METHODS, Child("operation")),
    },
    "operation": {
        "parameters": Child("parameter", "list"),
        "requestBody": Child("body"),
        "responses": Child("responses"),
        "callbacks": Child("callback", "map"),
        "servers": Child("server", "list"),
        "externalDocs": Child("docs"),
    },
    "callback": {ANY_KEY: Child("path")},
    "responses": {ANY_KEY: Child("response")},
    "response": {
        "headers": Child("header", "map"),
        "content": Child("media", "map"),
        "links": Child("link", "map"),
    },
    "body": {"content": Child("media", "map")},
    "parameter": {
        "schema": Child("schema"),
        "content": Child("media", "map"),
        "examples": Child("example", "map"),
    },
    "header": {
        "schema": Child("schema"),
        "content": Child("media", "map"),
        "examples": Child("example", "map"),
    },
    "media": {
        "schema": Child("schema"),
        "examples": Child("example", "map"),
        "encoding": Child("encoding", "map"),
    },
    "encoding": {"headers": Child("header", "map")},
    "link": {"server": Child("server")},
    "schema": {
        "properties": Child("schema", "map"),
        "additionalProperties": Child("schema"),
        "items": Child("schema"),
        "not": Child("schema"),
        "allOf": Child("schema", "list"),
        "anyOf": Child("schema", "list"),
        "oneOf": Child("schema", "list"),
        "discriminator": Child("discriminator"),
        "externalDocs": Child("docs"),
        "xml": Child("xml"),
    },
    "security_scheme": {"flows": Child("flows")},
    "flows": {ANY_KEY: Child("flow")},
    "components": {
        "schemas": Child("schema", "map"),
        "responses": Child("response", "map"),
        "parameters": Child("parameter", "map"),
        "examples": Child("example", "map"),
        "requestBodies": Child("body", "map"),
        "headers": Child("header", "map"),
        "links": Child("link", "map"),
        "securitySchemes": Child("security_scheme", "map"),
        "callbacks": Child("callback", "map"),
    },
}

# The kinds that a $ref can reference, with their names in messages.
REFERABLE: dict[Kind, str] = {
    "schema": "a schema",
    "response": "a response",
    "parameter": "a parameter",
    "example": "an example",
    "body": "a request body",
    "header": "a header",
    "link": "a link",
    "security_scheme": "a security scheme",
    "callback": "a callback",
}


def walk(document: dict[str, Any]) -> Iterator[SpecObject]:
    """Yield every OpenAPI object in document order; a `$ref` is yielded, not followed."""
    stack: list[tuple[NodePath, Kind, Any]] = [((), "root", document)]
    while stack:
        path, kind, node = stack.pop()
        if isinstance(node, dict):
            yield SpecObject(path, kind, node)
            if "$ref" not in node:
                stack.extend(reversed(list(_children(path, kind, node))))


def _children(
    path: NodePath, kind: Kind, node: dict[str, Any]
) -> Iterator[tuple[NodePath, Kind, Any]]:
    children = OBJECT_KINDS.get(kind, {})
    any_key = children.get(ANY_KEY)
    for key, value in node.items():
        child = children.get(key) or (None if key.startswith("x-") else any_key)
        if child is None:
            continue
        match child.container:
            case "list":
                for index, item in enumerate(list_at(node, key)):
                    yield (*path, key, index), child.kind, item
            case "map":
                for name, item in mapping_at(value).items():
                    yield (*path, key, name), child.kind, item
            case "none":
                yield (*path, key), child.kind, value
