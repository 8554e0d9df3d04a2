"""Access to the nodes of a contract's document: by key, by path, and through `$ref`s.

A malformed document raises nothing here unless the docstring says so: a node of an unexpected
type counts as absent.
"""

import builtins
import keyword
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

NodePath = tuple[str | int, ...]

METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
INHERITED = ("x-timeout", "x-rate-limit", "x-slo")
MAX_REF_DEPTH = 200  # levels that a $ref may expand to


def mapping_at(node: Any, *keys: str) -> dict[str, Any]:
    """Return the mapping below `keys`, or an empty one if it is absent."""
    for key in keys:
        node = node.get(key) if isinstance(node, dict) else None
    return node if isinstance(node, dict) else {}


def list_at(node: Any, key: str) -> list[Any]:
    """Return the list at `key`, or an empty one if it is absent."""
    value = node.get(key) if isinstance(node, dict) else None
    return value if isinstance(value, list) else []


def node_at(document: Any, path: NodePath) -> Any:
    """Return the node at `path`. Raises `LookupError`."""
    for key in path:
        document = document[key]
    return document


def format_path(path: NodePath) -> str:
    """Return a path as issues show it: `paths./orgs.get`."""
    return ".".join(map(str, path)) or "document"


def locate(document: Any, ref: str) -> tuple[NodePath, Any]:
    """Return the path and the node that `ref` references: `#/` and a JSON Pointer (RFC 6901).

    Raises `LookupError`.
    """
    path: NodePath = ()
    for part in ref.removeprefix("#/").split("/"):
        key: str | int = unquote(part).replace("~1", "/").replace("~0", "~")
        if isinstance(document, list):
            key = int(key) if re.fullmatch(r"[0-9]{1,6}", str(key)) else len(document)
        elif not isinstance(document, dict):
            raise LookupError(ref)
        path, document = (*path, key), document[key]
    return path, document


def resolve(document: Any, node: Any) -> dict[str, Any]:
    """Follow `$ref`s from `node` to a mapping; return an empty one if they cannot be resolved."""
    for _ in range(MAX_REF_DEPTH):
        if not isinstance(mapping_at(node).get("$ref"), str):
            return mapping_at(node)
        try:
            node = locate(document, node["$ref"])[1]
        except LookupError:
            break
    return {}


def deref(document: Any, node: Any, trail: frozenset[str] = frozenset()) -> Any:
    """Return a copy of `node` with every `$ref` replaced by the node it references.

    `trail` contains the `$ref`s being expanded. Raises `ValueError` for a recursive schema and
    `LookupError` for a `$ref` to a node that does not exist.
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
    """Yield the path, path item and node of each operation, in document order."""
    for path, item in mapping_at(document, "paths").items():
        for method in mapping_at(item) if path.startswith("/") else ():
            if method in METHODS and isinstance(item[method], dict):
                yield ("paths", path, method), item, item[method]


def parameters_of(
    document: Any, operation_path: NodePath
) -> dict[tuple[str, str], tuple[NodePath, Any]]:
    """Return the path and node of each parameter of an operation, by (name, in).

    The operation's parameters override those of its path item (OpenAPI 3.0.3, Operation Object).
    """
    _, path, method = operation_path
    item = mapping_at(document, "paths", str(path))
    parameters: dict[tuple[str, str], tuple[NodePath, Any]] = {}
    for owner_path, owner in ((operation_path[:-1], item), (operation_path, item[str(method)])):
        for i, entry in enumerate(list_at(owner, "parameters")):
            parameter = resolve(document, entry)
            name, location = parameter.get("name"), parameter.get("in")
            if isinstance(name, str) and isinstance(location, str):
                parameters[name, location] = (*owner_path, "parameters", i), parameter
    return parameters


def effective_extensions(document: Any, item: Any, operation: Any) -> dict[str, Any]:
    """Return the x- keys of an operation: its own, and those inherited from path item and root.

    A probe inherits no rate limit: Kubernetes would restart a pod whose probe is rejected.
    """
    inherited = {key: node[key] for node in (document, item) for key in INHERITED if key in node}
    if "x-probe" in operation:
        inherited.pop("x-rate-limit", None)
    return inherited | {key: v for key, v in operation.items() if key.startswith("x-")}


def function_name(verb: str) -> str:
    """Return the name of the handler for `verb`: `get` for get, `list_` for list.

    Keywords and builtins of Python get an underscore.
    """
    return f"{verb}_" if keyword.iskeyword(verb) or hasattr(builtins, verb) else verb
