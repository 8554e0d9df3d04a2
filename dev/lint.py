"""`python -m dev.lint`: rules for a contract that is safe and pleasant to use.

`openapi.rules` rejects what cannot be served. These rules reject what would be served badly: ids
that can be guessed, lists without pages, a 401 that does not name its scheme, a tenant's
operation without a token.
"""

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from openapi import contract
from openapi.contract import Contract, ContractError, Issue, Operation
from openapi.documents import NodePath, list_at, mapping_at
from openapi.yaml_loader import display

Violation = tuple[NodePath, str]  # the path of a node, and what is wrong with it

# RFC 9110, sections 11.6.1 and 10.2.3; RFC 6585, section 4.
REQUIRED_HEADERS = {
    "401": ["WWW-Authenticate"],
    "429": ["Retry-After", "RateLimit", "RateLimit-Policy"],
    "503": ["Retry-After"],
}
IDEMPOTENCY_HEADER = "idempotency-key"


def lint(loaded: Contract) -> list[Issue]:
    """Return every issue of a contract that `openapi.contract` accepts, ordered by line."""
    violations = list(_servers(loaded.document))
    for operation in loaded.operations.values():
        path: NodePath = ("paths", operation.path, operation.method)
        for relative_path, reason in _operation(loaded, operation):
            violations.append(((*path, *relative_path), reason))
    return sorted(loaded.issue(path, reason) for path, reason in violations)


def _operation(loaded: Contract, operation: Operation) -> Iterator[Violation]:
    """Yield the violations of an operation, with paths relative to it."""
    claim = loaded.tenant.get("claim")
    path_parameters = re.findall(r"\{([^{}]+)\}", operation.path)
    if claim in path_parameters and not operation.security:
        yield ("security",), f"`{claim}` in the path names a tenant: require a token"
    for parameter in operation.parameters:
        schema = parameter.get("schema", {})
        if parameter["in"] == "path" and schema.get("format") != "uuid" and "enum" not in schema:
            reason = "is neither a uuid nor an enum: clients can guess other values"
            yield (), f"path parameter `{parameter['name']}` {reason}"
    yield from _responses(operation, has_path_parameters=bool(path_parameters))
    yield from _examples(("requestBody",), operation.body or {}, "the request body")
    yield from _lists(operation)
    if operation.method == "post" and operation.security and "201" in operation.responses:
        yield from _idempotency(operation)


def _responses(operation: Operation, *, has_path_parameters: bool) -> Iterator[Violation]:
    for code, response in operation.responses.items():
        for name in REQUIRED_HEADERS.get(code, ()):
            if not _has_header(response, name):
                yield ("responses", code), f"response {code} does not declare the header {name}"
        if code.startswith("2"):
            yield from _examples(("responses", code), response, f"response {code}")
        if code == "201" and has_path_parameters and not _has_header(response, "Location"):
            reason = "response 201 does not declare the header Location (RFC 9110, section 15.3.2)"
            yield ("responses", code), reason


def _examples(path: NodePath, node: dict[str, Any], name: str) -> Iterator[Violation]:
    for media_type, content in node.get("content", {}).items():
        if not {"example", "examples"} & content.keys():
            yield (*path, "content", media_type), f"{name} has no example"


def _lists(operation: Operation) -> Iterator[Violation]:
    accepted = {
        parameter["name"] for parameter in operation.parameters if parameter["in"] == "query"
    }
    for code, response in operation.responses.items():
        schema = response.get("content", {}).get("application/json", {}).get("schema", {})
        items = schema.get("properties", {}).get("items", {})
        if code.startswith("2") and "array" in (schema.get("type"), items.get("type")):
            for name in sorted({"limit", "cursor"} - accepted):
                yield (), f"returns a list but does not accept the parameter `{name}`"


def _idempotency(operation: Operation) -> Iterator[Violation]:
    """Creating a resource must be safe to retry."""
    headers = [p["name"].lower() for p in operation.parameters if p["in"] == "header"]
    if IDEMPOTENCY_HEADER not in headers:
        yield (
            (),
            "creates a resource but does not accept Idempotency-Key: a retry would create it twice",
        )
        return
    for code in ("409", "422"):
        if code not in operation.responses:
            yield ("responses",), f"accepts Idempotency-Key but does not declare response {code}"


def _has_header(response: dict[str, Any], name: str) -> bool:
    return name.lower() in {header.lower() for header in response.get("headers", {})}


def _servers(document: dict[str, Any]) -> Iterator[Violation]:
    for n, server in enumerate(list_at(document, "servers")):
        url = urlsplit(str(mapping_at(server).get("url", "")))
        is_exposed = mapping_at(server, "x-environment").get("exposure", "none") != "none"
        is_local = (url.hostname or "").rsplit(".", 1)[-1] == "localhost"
        if is_exposed and url.scheme != "https" and not is_local:
            yield ("servers", n, "url"), "is exposed without TLS: tokens can be read in transit"


def main(arguments: list[str]) -> int:
    """Print one line per issue; return 1 if there are any, else 0."""
    parser = argparse.ArgumentParser(
        prog="python -m dev.lint",
        description="Check a contract against rules beyond those that it must follow to be served.",
    )
    parser.add_argument(
        "contract",
        type=Path,
        nargs="?",
        metavar="FILE",
        help="contract to check, without its handlers; default: openapi/openapi.yaml and handlers/",
    )
    file = parser.parse_args(arguments).contract
    try:
        issues = lint(contract.load(file, None) if file else contract.load())
    except ContractError as error:
        print(error, file=sys.stderr)
        return 1
    for issue in issues:
        print(issue, file=sys.stderr)
    if not issues:
        print(f"{display(file or contract.DEFAULT)}: 0 issues")
    return 1 if issues else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
