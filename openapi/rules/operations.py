"""The rules of paths, operations and their parameters."""

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from openapi.documents import (
    NodePath,
    SpecObject,
    each_operation,
    effective_extensions,
    format_path,
    function_of,
    list_at,
    mapping_at,
    parameters_of,
    resolve,
)
from openapi.rules.messages import Violation, enumerate_names, quote, suggest


def paths(document: Any) -> Iterator[Violation]:
    """No two paths may match one request, unless one is the more literal throughout."""
    split = {p: p.split("/")[1:] for p in mapping_at(document, "paths") if p.startswith("/")}
    for path, segments in split.items():
        for segment in segments if path != "/" else ():
            if not re.fullmatch(r"\{[a-z][a-z0-9_]*\}|[A-Za-z0-9._~-]+", segment):
                reason = f"{quote(segment)} is neither a plain segment nor a {{parameter}}"
                yield ("paths", path), reason
    for first, second in itertools.combinations(split, 2):
        if len(split[first]) != len(split[second]):
            continue
        pairs = list(zip(split[first], split[second], strict=True))
        if all(a == b or "{" in a + b for a, b in pairs):
            wider = {"{" in a for a, b in pairs if ("{" in a) != ("{" in b)}
            if len(wider) != 1:  # neither is the more literal, or each is somewhere
                yield ("paths", second), f"a request could match this as well as {first}"


def operations(
    document: Any, objects: list[SpecObject], handler_fault: Callable[[str, str], str | None]
) -> Iterator[Violation]:
    ids: dict[str, NodePath] = {}
    declared = [mapping_at(tag).get("name") for tag in list_at(document, "tags")]
    for place, item, operation in each_operation(document):
        name, here = operation.get("operationId"), (*place, "operationId")
        if "operationId" not in operation:
            yield place, "lacks an operationId"
        elif isinstance(name, str):
            first = ids.setdefault(name, place)
            tag, _, verb = name.partition(".")
            if first != place:
                yield here, f"`{name}` is also the operationId of {format_path(first)}"
            if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*\.[a-z][a-z0-9]*(_[a-z0-9]+)*", name):
                yield here, f"{quote(name)} is not `tag.verb` in snake_case"
            elif tag not in list_at(operation, "tags"):
                yield here, f"the operation has no tag `{tag}`"
            elif first == place and (fault := handler_fault(tag, function_of(verb))):
                yield here, fault
        for i, tag in enumerate(list_at(operation, "tags")):
            if isinstance(tag, str) and tag not in declared:
                yield (*place, "tags", i), f"tag `{tag}` is not declared in the contract's tags"
        yield from _responses(document, place, item, operation)
        yield from _rate_limit(document, place, item, operation)
    for place, kind, node in objects:
        target = node.get("operationId")
        if kind == "link" and isinstance(target, str) and target not in ids:
            yield (*place, "operationId"), f"no operation `{target}`{suggest(target, ids)}"


def _responses(document: Any, place: NodePath, item: Any, operation: Any) -> Iterator[Violation]:
    has_path_parameter = "{" in str(place[1])
    needed = {
        "400 413 431 500 503": True,
        "401": operation.get("security", document.get("security")),
        "404": has_path_parameter,
        "408 415": "requestBody" in operation,
        "429": "x-rate-limit" in effective_extensions(document, item, operation),
    }
    if not isinstance(answers := operation.get("responses"), dict):
        return
    if not any(re.fullmatch("2[0-9][0-9]", code) for code in answers):
        yield (*place, "responses"), "lacks a 2xx response"
    codes = {code for some, condition in needed.items() if condition for code in some.split()}
    if missing := sorted(codes - answers.keys()):
        yield (*place, "responses"), f"lacks {enumerate_names(missing, 'and')}"


def _rate_limit(document: Any, place: NodePath, item: Any, operation: Any) -> Iterator[Violation]:
    own = (*place, "x-rate-limit")
    if "x-rate-limit" in operation and "x-probe" in operation:
        yield own, "a probe has no limit: it asks for ever"
    limit = mapping_at(effective_extensions(document, item, operation), "x-rate-limit")
    if limit.get("key") == "tenant" and not operation.get("security", document.get("security")):
        where = own if "x-rate-limit" in operation else place
        yield where, "a public operation has no tenant to count: write `key: client`"


def parameters(document: Any, objects: list[SpecObject]) -> Iterator[Violation]:
    for place, kind, node in objects:
        if kind == "parameter" and "$ref" not in node:
            if "schema" not in node:
                yield place, "needs a `schema`"
            elif (schema := resolve(document, node["schema"])) and "type" not in schema:
                yield (*place, "schema"), "the schema of a parameter needs a `type`"
        resolved = [resolve(document, entry) for entry in list_at(node, "parameters")]
        names = Counter(quote([p.get("name"), p.get("in")]) for p in resolved if p)
        for name in (name for name, times in names.items() if times > 1):
            yield (*place, "parameters"), f"{name} is declared twice"
    for place, _, _ in each_operation(document):
        declared = parameters_of(document, place)
        template = set(re.findall(r"\{([^{}]*)\}", str(place[1])))
        for name in sorted(template - {name for name, where in declared if where == "path"}):
            yield place, f"path parameter `{name}` is not declared"
        for (name, where), (at, _) in declared.items():
            if where == "path" and name not in template:
                yield at, f"path parameter `{name}` does not occur in the path"
