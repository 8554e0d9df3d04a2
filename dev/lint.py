"""`python -m dev.lint`: what a contract should be beyond what it must be to be served.

`openapi.rules` refuses what cannot be served; these rules refuse what would be served badly: an
id that can be guessed, a list without end, a 401 that does not say how, a tenant without a token.
"""

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

# RFC 9110 (11.6.1 and 10.2.3) and RFC 6585 (section 4).
HEADERS = {
    "401": ["WWW-Authenticate"],
    "429": ["Retry-After", "RateLimit", "RateLimit-Policy"],
    "503": ["Retry-After"],
}
IDEMPOTENCY_HEADER = "idempotency-key"


def lint(checked: Contract) -> list[Issue]:
    """Return what is wrong, by line."""
    found: list[tuple[NodePath, str]] = [*_servers(checked)]
    for operation in checked.operations.values():
        place: NodePath = ("paths", operation.path, operation.method)
        for below, reason in _operation(checked, operation):
            found.append(((*place, *below), reason))
    return sorted(checked.issue(place, reason) for place, reason in found)


def _operation(checked: Contract, operation: Operation) -> Iterator[tuple[NodePath, str]]:
    claim = checked.tenant.get("claim")
    ids = re.findall(r"\{([^{}]+)\}", operation.path)
    if claim in ids and not operation.security:
        yield ("security",), f"`{claim}` in the path names a tenant: a token is needed"
    for parameter in operation.parameters:
        schema = parameter.get("schema", {})
        if parameter["in"] == "path" and schema.get("format") != "uuid" and "enum" not in schema:
            yield (), f"path parameter `{parameter['name']}` is no uuid: others can be guessed"
    for code, names in HEADERS.items():
        if (answer := operation.responses.get(code)) is not None:
            for name in names:
                if not _has_header(answer, name.lower()):
                    yield ("responses", code), f"{code} without the header {name}"
    yield from _media(("requestBody",), operation.body or {}, "the body")
    for code, answer in operation.responses.items():
        if code.startswith("2"):
            yield from _media(("responses", code), answer, code)
            if code == "201" and not _has_header(answer, "location") and ids:
                yield ("responses", code), "201 without the header Location (RFC 9110, 15.3.2)"
    yield from _lists(operation)
    if operation.method == "post" and operation.security and "201" in operation.responses:
        yield from _keys(operation)


def _media(place: NodePath, holder: dict[str, Any], what: str) -> Iterator[tuple[NodePath, str]]:
    for kind, media in holder.get("content", {}).items():
        if not {"example", "examples"} & media.keys():
            yield (*place, "content", kind), f"{what} has no example"


def _lists(operation: Operation) -> Iterator[tuple[NodePath, str]]:
    names = {parameter["name"] for parameter in operation.parameters if parameter["in"] == "query"}
    for code, answer in operation.responses.items():
        schema = answer.get("content", {}).get("application/json", {}).get("schema", {})
        items = schema.get("properties", {}).get("items", {})
        if code.startswith("2") and "array" in (schema.get("type"), items.get("type")):
            for missing in sorted({"limit", "cursor"} - names):
                yield (), f"answers with a list and has no parameter `{missing}`"


def _keys(operation: Operation) -> Iterator[tuple[NodePath, str]]:
    """What makes something must be safe to send again."""
    if not any(
        p["in"] == "header" and p["name"].lower() == IDEMPOTENCY_HEADER
        for p in operation.parameters
    ):
        yield (), "makes something and takes no Idempotency-Key: a retry would make it twice"
        return
    for code in ("409", "422"):
        if code not in operation.responses:
            yield ("responses",), f"takes an Idempotency-Key and declares no {code}"


def _has_header(answer: dict[str, Any], name: str) -> bool:
    return name in {header.lower() for header in answer.get("headers", {})}


def _servers(checked: Contract) -> Iterator[tuple[NodePath, str]]:
    for n, server in enumerate(list_at(checked.document, "servers")):
        place = urlsplit(str(mapping_at(server).get("url", "")))
        exposed = mapping_at(server, "x-environment").get("exposure", "none") != "none"
        local = (place.hostname or "").rsplit(".", 1)[-1] == "localhost"
        if exposed and place.scheme != "https" and not local:
            yield ("servers", n, "url"), "exposed without TLS: tokens could be read on the way"


def main(arguments: list[str]) -> int:
    """Lint the contract named, or ours: print the faults and return 1, or one line and 0."""
    file = Path(arguments[0]) if arguments else contract.DEFAULT
    try:
        found = lint(contract.load(file, contract.DEFAULT_HANDLERS if not arguments else None))
    except ContractError as error:
        print(error, file=sys.stderr)
        return 1
    for fault in found:
        print(fault, file=sys.stderr)
    if not found:
        print(f"{display(file)}: 0 findings")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
