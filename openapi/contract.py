"""The contract, loaded and checked before anything runs: operations, schemas and facts by name."""

import ast
import hashlib
import importlib.util
import json
import sys
from collections.abc import Callable, Mapping, Set
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from openapi import documents, rules, tables
from openapi.documents import NodePath, deref, format_path, function_of
from openapi.rules import table_operations
from openapi.rules import tables as table_rules
from openapi.tables import Table
from openapi.yaml_loader import ContractError, Issue, display, line_of, parse, read

__all__ = ["Contract", "ContractError", "Issue", "Operation", "deref", "load", "public_document"]

HERE = Path(__file__).resolve().parent
DEFAULT = HERE / "openapi.yaml"
DEFAULT_HANDLERS = HERE.parent / "handlers"
ABSENT = "does not exist"


@dataclass(frozen=True)
class Operation:
    """One method of one path, every `$ref` resolved, with the x- keys in force for it."""

    id: str
    tag: str
    verb: str
    method: str
    path: str
    parameters: tuple[dict[str, Any], ...]
    body: dict[str, Any] | None
    responses: Mapping[str, dict[str, Any]]
    security: tuple[dict[str, list[str]], ...]
    extensions: Mapping[str, Any]

    @property
    def function(self) -> str:
        """The name of the handler in the tag's module: `list_` for projects.list."""
        return function_of(self.verb)


@dataclass(frozen=True)
class Contract:
    """A contract without faults; `document` is as written, its `$ref`s kept."""

    file: Path
    hash: str
    name: str
    title: str
    version: str
    document: dict[str, Any] = field(repr=False)
    operations: Mapping[str, Operation] = field(repr=False)
    service: Mapping[str, Any]
    token: Mapping[str, Any]
    tenant: Mapping[str, Any]
    tables: Mapping[str, Table] = field(repr=False)
    lines: Mapping[NodePath, int] = field(repr=False, compare=False)

    def line_of(self, *path: str | int) -> int:
        """Return the line of the value at `path`, or of the nearest that holds it."""
        return line_of(self.lines, path)

    def fault(self, place: NodePath, reason: str) -> Issue:
        """Return what is wrong at `place`, for whoever holds the contract to more than `load`."""
        return Issue(display(self.file), self.line_of(*place), format_path(place), reason)


def load(file: Path = DEFAULT, handlers: Path | None = DEFAULT_HANDLERS) -> Contract:
    """Return the contract of `file`; its handlers must exist below `handlers`, unless None.

    The verbs of a table need none: the generic handler serves them.
    Raises `ContractError` with all its faults at once.
    """
    name = display(file)
    source = read(file, name)
    document, lines, flaws = parse(source, name)
    spoiled = {place for _, place, _ in flaws}
    functions_of = cache(partial(_functions, handlers))
    found = rules.check(
        document,
        json.loads(_openapi_schema().read_bytes()),
        json.loads((HERE / "extensions.schema.json").read_bytes()),
        _handler_faults(handlers, functions_of, tables.names(document)),
    )
    found += table_rules.check(document)
    found += table_operations.check(document, functions_of)
    flaws += [
        (line_of(lines, place), place, reason) for place, reason in found if place not in spoiled
    ]
    if flaws:
        raise ContractError(
            [Issue(name, line, format_path(p), reason) for line, p, reason in flaws]
        )
    return _contract(file, hashlib.sha256(source).hexdigest(), document, lines)


def public_document(contract: Contract) -> dict[str, Any]:
    """Return what clients are served: no x- keys, and requests go to the origin they came from.

    An enum that is nullable names null, which OpenAPI 3.0.3 demands and people forget.
    """
    document = deepcopy(contract.document)
    for _, kind, node in documents.walk(document):
        for key in [key for key in node if key.startswith("x-")]:
            del node[key]
        if kind == "schema" and node.get("nullable") is True and "enum" in node:
            node["enum"] = [value for value in node["enum"] if value is not None] + [None]
    return document | {"servers": [{"url": "/"}]}


def _contract(file: Path, digest: str, document: Any, lines: Mapping[NodePath, int]) -> Contract:
    operations = {}
    for place, item, node in documents.each_operation(document):
        id, (_, path, method) = node["operationId"], place
        tag, verb = id.split(".")
        operations[id] = Operation(
            id=id,
            tag=tag,
            verb=verb,
            method=str(method),
            path=str(path),
            parameters=tuple(
                deref(document, parameter)
                for _, parameter in documents.parameters_of(document, place).values()
            ),
            body=deref(document, node.get("requestBody")),
            responses=MappingProxyType(deref(document, node["responses"])),
            security=tuple(node.get("security", document.get("security", ()))),
            extensions=MappingProxyType(documents.effective_extensions(document, item, node)),
        )
    schemes = documents.mapping_at(document, "components", "securitySchemes").values()
    words = {"x-token", "x-tenant"}
    bearer: dict[str, Any] = next((scheme for scheme in schemes if words <= scheme.keys()), {})
    return Contract(
        file=file,
        hash=digest,
        name=document["x-service"]["name"],
        title=document["info"]["title"],
        version=document["info"]["version"],
        document=document,
        operations=MappingProxyType(operations),
        service=MappingProxyType(document["x-service"]),
        token=MappingProxyType(bearer.get("x-token", {})),
        tenant=MappingProxyType(bearer.get("x-tenant", {})),
        tables=MappingProxyType(tables.from_document(document)),
        lines=MappingProxyType(lines),
    )


def _handler_faults(
    handlers: Path | None, functions_of: Callable[[str], Set[str] | str], generic: Set[str]
) -> Callable[[str, str], str | None]:
    """Return what tells why a module's function cannot handle an operation.

    The tags of `generic` need no function for the verbs of a table.
    """

    def fault(tag: str, function: str) -> str | None:
        found = functions_of(tag)
        if handlers is None or (isinstance(found, Set) and function in found):
            return None
        is_verb = tag in generic and function in map(function_of, tables.METHOD_BY_VERB)
        if is_verb and (isinstance(found, Set) or found == ABSENT):
            return None
        file = f"{handlers.name}/{tag}.py"
        hint = (
            f"; the verbs of a table are {', '.join(tables.METHOD_BY_VERB)}"
            if tag in generic
            else ""
        )
        if found == ABSENT:
            return f"{file} {ABSENT}: it should define `{function}`{hint}"
        if isinstance(found, str):
            return f"{file} {found}"
        return f"{file} has no function `{function}`{hint}"

    return fault


def _functions(handlers: Path | None, tag: str) -> frozenset[str] | str:
    """Return the functions of a tag's module, or what is wrong with it; imports nothing."""
    if handlers is None:
        return frozenset()
    try:
        body = ast.parse((handlers / f"{tag}.py").read_bytes()).body
    except OSError:
        return ABSENT
    except SyntaxError as error:
        return f"is no Python (line {error.lineno}: {error.msg})"
    except ValueError as error:
        return f"is no Python ({error})"
    functions = ast.FunctionDef | ast.AsyncFunctionDef
    return frozenset(node.name for node in body if isinstance(node, functions))


def _openapi_schema() -> Path:
    """Return where Connexion keeps the schema of OpenAPI 3.0; it is found, not imported."""
    spec = importlib.util.find_spec("connexion")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("connexion")
    return Path(spec.origin).parent / "resources" / "schemas" / "v3.0" / "schema.json"


def main(arguments: list[str]) -> int:
    """Check the contract named, or ours: print its faults and return 1, or one line and 0."""
    file = Path(arguments[0]) if arguments else DEFAULT
    try:
        contract = load(file)
    except ContractError as error:
        print(error, file=sys.stderr)
        return 1
    count = len(contract.operations)
    print(f"{display(file)}: {count} operation{'s' * (count != 1)}, 0 faults")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
