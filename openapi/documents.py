"""Reading a contract's document: what kind of object stands where, and what a `$ref` names.

Nothing here raises for a malformed document, unless it says so: what has not the shape that is
looked for is passed over.
"""

import builtins
import keyword
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

NodePath = tuple[str | int, ...]
SpecObject = tuple[NodePath, str, dict[str, Any]]  # where it stands, its kind, itself

METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
INHERITED = ("x-timeout", "x-rate-limit", "x-slo")
MAX_REF_DEPTH = 200  # levels that a $ref may unfold to

# What kind of object stands below which key of which kind: `[` a list of it, `{` a map of it by
# name, `*` any key but x- ones. All other kinds have no objects below them.
OBJECT_KINDS = {
    kind: dict(child.split("=") for child in children.split())
    for kind, children in {
        "root": "info=info servers=[server paths=paths components=components tags=[tag"
        " externalDocs=docs",
        "info": "contact=contact license=license",
        "server": "variables={variable",
        "tag": "externalDocs=docs",
        "paths": "*=path",
        "path": f"servers=[server parameters=[parameter {'=operation '.join(METHODS)}=operation",
        "operation": "parameters=[parameter requestBody=body responses=responses"
        " callbacks={callback servers=[server externalDocs=docs",
        "callback": "*=path",
        "responses": "*=response",
        "response": "headers={header content={media links={link",
        "body": "content={media",
        "parameter": "schema=schema content={media examples={example",
        "header": "schema=schema content={media examples={example",
        "media": "schema=schema examples={example encoding={encoding",
        "encoding": "headers={header",
        "link": "server=server",
        "schema": "properties={schema additionalProperties=schema items=schema not=schema"
        " allOf=[schema anyOf=[schema oneOf=[schema discriminator=discriminator"
        " externalDocs=docs xml=xml",
        "security_scheme": "flows=flows",
        "flows": "*=flow",
        "components": "schemas={schema responses={response parameters={parameter"
        " examples={example requestBodies={body headers={header links={link"
        " securitySchemes={security_scheme callbacks={callback",
    }.items()
}


def walk(document: dict[str, Any]) -> Iterator[SpecObject]:
    """Yield every OpenAPI object in document order; a `$ref` is yielded, not followed."""
    stack: list[tuple[NodePath, str, Any]] = [((), "root", document)]
    while stack:
        place, kind, node = stack.pop()
        if isinstance(node, dict):
            yield place, kind, node
            if "$ref" not in node:
                stack.extend(reversed(list(_children(place, kind, node))))


def _children(
    place: NodePath, kind: str, node: dict[str, Any]
) -> Iterator[tuple[NodePath, str, Any]]:
    shape = OBJECT_KINDS.get(kind, {})
    for key, child in node.items():
        below = shape.get(key) or ("" if key.startswith("x-") else shape.get("*", ""))
        if below.startswith("["):
            yield from (((*place, key, i), below[1:], v) for i, v in enumerate(list_at(node, key)))
        elif below.startswith("{"):
            yield from (((*place, key, k), below[1:], v) for k, v in mapping_at(child).items())
        elif below:
            yield (*place, key), below, child


def mapping_at(node: Any, *keys: str) -> dict[str, Any]:
    """Return the mapping below `keys`, or an empty one where there is none."""
    for key in keys:
        node = node.get(key) if isinstance(node, dict) else None
    return node if isinstance(node, dict) else {}


def list_at(node: Any, key: str) -> list[Any]:
    """Return the list at `key`, or an empty one where there is none."""
    found = node.get(key) if isinstance(node, dict) else None
    return found if isinstance(found, list) else []


def node_at(document: Any, place: NodePath) -> Any:
    """Return what stands at `place`. Raises `LookupError`."""
    for key in place:
        document = document[key]
    return document


def format_path(place: NodePath) -> str:
    """Return a place as faults name it: `paths./orgs.get`."""
    return ".".join(map(str, place)) or "document"


def locate(document: Any, ref: str) -> tuple[NodePath, Any]:
    """Return the place that `ref` (`#/…`, RFC 6901) names, and what stands there.

    Raises `LookupError`.
    """
    place: NodePath = ()
    for part in ref.removeprefix("#/").split("/"):
        key: str | int = unquote(part).replace("~1", "/").replace("~0", "~")
        if isinstance(document, list):
            key = int(key) if re.fullmatch(r"[0-9]{1,6}", str(key)) else len(document)
        elif not isinstance(document, dict):
            raise LookupError(ref)
        place, document = (*place, key), document[key]
    return place, document


def resolve(document: Any, node: Any) -> dict[str, Any]:
    """Follow `$ref`s from `node` to an object; an empty one where they lead nowhere."""
    for _ in range(MAX_REF_DEPTH):
        if not isinstance(mapping_at(node).get("$ref"), str):
            return mapping_at(node)
        try:
            node = locate(document, node["$ref"])[1]
        except LookupError:
            break
    return {}


def deref(document: Any, node: Any, trail: frozenset[str] = frozenset()) -> Any:
    """Return a copy of `node` in which every `$ref` is replaced by what it names.

    Raises `ValueError` for a recursive schema, `LookupError` for a `$ref` that leads nowhere.
    """
    if isinstance(node, list):
        return [deref(document, item, trail) for item in node]
    if not isinstance(node, dict):
        return node
    ref = node.get("$ref")
    if not isinstance(ref, str):
        return {key: deref(document, child, trail) for key, child in node.items()}
    if ref in trail:
        raise ValueError(f"recursive schema: {ref}")
    return deref(document, locate(document, ref)[1], trail | {ref})


def each_operation(document: Any) -> Iterator[tuple[NodePath, dict[str, Any], dict[str, Any]]]:
    """Yield place, path item and operation, in document order."""
    for path, item in mapping_at(document, "paths").items():
        for method in mapping_at(item) if path.startswith("/") else ():
            if method in METHODS and isinstance(item[method], dict):
                yield ("paths", path, method), item, item[method]


def parameters_of(document: Any, place: NodePath) -> dict[tuple[str, str], tuple[NodePath, Any]]:
    """Return place and object of each parameter of the operation at `place`, by (name, in).

    The operation's own replace its path's (OpenAPI 3.0.3, Operation Object).
    """
    _, path, method = place
    item = mapping_at(document, "paths", str(path))
    found: dict[tuple[str, str], tuple[NodePath, Any]] = {}
    for owner, node in ((place[:-1], item), (place, item[str(method)])):
        for i, entry in enumerate(list_at(node, "parameters")):
            parameter = resolve(document, entry)
            name, location = parameter.get("name"), parameter.get("in")
            if isinstance(name, str) and isinstance(location, str):
                found[name, location] = (*owner, "parameters", i), parameter
    return found


def effective_extensions(document: Any, item: Any, operation: Any) -> dict[str, Any]:
    """Return the x- keys of an operation: those it inherits from root and path, and its own.

    A probe inherits no rate limit: the cluster would restart what it has asked too often.
    """
    inherited = {key: at[key] for at in (document, item) for key in INHERITED if key in at}
    if "x-probe" in operation:
        inherited.pop("x-rate-limit", None)
    return inherited | {key: v for key, v in operation.items() if key.startswith("x-")}


def function_of(verb: str) -> str:
    """Return the name of the function that handles `verb`: `list_` for list, `get` for get."""
    return f"{verb}_" if keyword.iskeyword(verb) or hasattr(builtins, verb) else verb
