"""The contract, loaded and checked before anything runs: operations, tables and settings."""

import hashlib
import importlib.util
import json
import sys
from collections.abc import Mapping, Set
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from openapi import documents, handler_modules, rules, tables
from openapi.documents import NodePath, deref, format_path, function_name
from openapi.object_tree import walk
from openapi.rules import Violation, table_operations
from openapi.rules import tables as table_rules
from openapi.tables import Table
from openapi.yaml_loader import ContractError, Issue, display, line_of, parse, read

__all__ = ["Contract", "ContractError", "Issue", "Operation", "deref", "load", "public_document"]

HERE = Path(__file__).resolve().parent
DEFAULT = HERE / "openapi.yaml"
DEFAULT_HANDLERS = HERE.parent / "handlers"


@dataclass(frozen=True)
class Operation:
    """One method of one path, every `$ref` resolved, with its effective x- keys."""

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
        return function_name(self.verb)


@dataclass(frozen=True)
class Contract:
    """A contract without issues; `document` is as written, its `$ref`s unresolved.

    `hash` is the SHA-256 of the file. `service`, `token` and `tenant` are x-service, x-token and
    x-tenant.
    """

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
        """Return the line of the node at `path`, or of its nearest ancestor that has one."""
        return line_of(self.lines, path)

    def issue(self, path: NodePath, reason: str) -> Issue:
        """Return an issue at `path`, for checks beyond those of `load`."""
        return Issue(display(self.file), self.line_of(*path), format_path(path), reason)


def load(file: Path = DEFAULT, handlers: Path | None = DEFAULT_HANDLERS) -> Contract:
    """Return the contract in `file`.

    Every operation must have a handler in the folder `handlers`, unless that is None or the
    service handles it from a table. Raises `ContractError` with all issues of the contract.
    """
    name = display(file)
    source = read(file, name)
    document, lines, issues = parse(source, name)
    reported = {path for _, path, _ in issues}
    issues += [
        (line_of(lines, path), path, reason)
        for path, reason in _violations(document, handlers)
        if path not in reported
    ]
    if issues:
        raise ContractError(
            Issue(name, line, format_path(path), reason) for line, path, reason in issues
        )
    return _contract(file, hashlib.sha256(source).hexdigest(), document, lines)


def public_document(contract: Contract) -> dict[str, Any]:
    """Return the document for clients: without x- keys, and with the service's origin as server.

    A nullable enum gets the value null, which OpenAPI 3.0.3 requires and authors forget.
    """
    document = deepcopy(contract.document)
    for _, kind, node in walk(document):
        for key in [key for key in node if key.startswith("x-")]:
            del node[key]
        if kind == "schema" and node.get("nullable") is True and "enum" in node:
            node["enum"] = [value for value in node["enum"] if value is not None] + [None]
    return document | {"servers": [{"url": "/"}]}


def _violations(document: dict[str, Any], handlers: Path | None) -> list[Violation]:
    table_names = tables.names(document)
    module_of = cache(partial(handler_modules.parse_module, handlers)) if handlers else None

    def handler_issue(tag: str, function: str) -> str | None:
        if module_of is None:
            return None
        has_table = tag in table_names
        return handler_modules.missing_handler(module_of(tag), function, has_table=has_table)

    def handlers_of(tag: str) -> Set[str]:
        return module_of(tag).functions if module_of else frozenset()

    return [
        *rules.check(
            document,
            json.loads(_openapi_schema().read_bytes()),
            json.loads((HERE / "extensions.schema.json").read_bytes()),
            handler_issue,
        ),
        *table_rules.check(document),
        *table_operations.check(document, handlers_of),
    ]


def _contract(file: Path, digest: str, document: Any, lines: Mapping[NodePath, int]) -> Contract:
    operations = {}
    for node_path, item, node in documents.each_operation(document):
        id, (_, path, method) = node["operationId"], node_path
        tag, verb = id.split(".")
        operations[id] = Operation(
            id=id,
            tag=tag,
            verb=verb,
            method=str(method),
            path=str(path),
            parameters=tuple(
                deref(document, parameter)
                for _, parameter in documents.parameters_of(document, node_path).values()
            ),
            body=deref(document, node.get("requestBody")),
            responses=MappingProxyType(deref(document, node["responses"])),
            security=tuple(node.get("security", document.get("security", ()))),
            extensions=MappingProxyType(documents.effective_extensions(document, item, node)),
        )
    schemes = documents.mapping_at(document, "components", "securitySchemes").values()
    required = {"x-token", "x-tenant"}
    bearer: dict[str, Any] = next((scheme for scheme in schemes if required <= scheme.keys()), {})
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


def _openapi_schema() -> Path:
    """Return the file with Connexion's JSON Schema of OpenAPI 3.0, without importing Connexion."""
    spec = importlib.util.find_spec("connexion")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("connexion")
    return Path(spec.origin).parent / "resources" / "schemas" / "v3.0" / "schema.json"


def main(arguments: list[str]) -> int:
    """Check the contract in the file given, or the default one; return 1 if it has issues."""
    file = Path(arguments[0]) if arguments else DEFAULT
    try:
        contract = load(file)
    except ContractError as error:
        print(error, file=sys.stderr)
        return 1
    count = len(contract.operations)
    print(f"{display(file)}: {count} operation{'s' * (count != 1)}, 0 issues")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
