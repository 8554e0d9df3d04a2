"""The rules for paths, operations and their parameters."""

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from openapi.documents import (
    NodePath,
    each_operation,
    effective_extensions,
    format_path,
    function_name,
    list_at,
    mapping_at,
    parameters_of,
    resolve,
)
from openapi.object_tree import SpecObject
from openapi.rules.messages import Violation, missing_responses, quote, suggest


def check_paths(document: Any) -> Iterator[Violation]:
    """No request can match two paths, unless one of them is the more literal in every segment."""
    templates = {p: p.split("/")[1:] for p in mapping_at(document, "paths") if p.startswith("/")}
    for path, segments in templates.items():
        for segment in segments if path != "/" else ():
            if not re.fullmatch(r"\{[a-z][a-z0-9_]*\}|[A-Za-z0-9._~-]+", segment):
                reason = f"path segment {quote(segment)} must be plain text or one {{parameter}}"
                yield ("paths", path), reason
    for first, second in itertools.combinations(templates, 2):
        if len(templates[first]) != len(templates[second]):
            continue
        pairs = list(zip(templates[first], templates[second], strict=True))
        if all(a == b or "{" in a + b for a, b in pairs):
            first_is_wider = {"{" in a for a, b in pairs if ("{" in a) != ("{" in b)}
            if len(first_is_wider) != 1:  # neither is more literal, or each is in some segment
                yield ("paths", second), f"is ambiguous: a request can also match {first}"


def check_operations(
    document: Any, objects: list[SpecObject], handler_issue: Callable[[str, str], str | None]
) -> Iterator[Violation]:
    """Every operation has a unique id with a handler, declared tags, and the required responses."""
    paths_by_id: dict[str, NodePath] = {}
    declared_tags = [mapping_at(tag).get("name") for tag in list_at(document, "tags")]
    for path, item, operation in each_operation(document):
        if "operationId" not in operation:
            yield path, "operationId is missing"
        elif isinstance(id := operation["operationId"], str):
            yield from _operation_id(id, path, operation, paths_by_id, handler_issue)
        for i, tag in enumerate(list_at(operation, "tags")):
            if isinstance(tag, str) and tag not in declared_tags:
                reason = f"tag `{tag}` is not declared in the contract's top-level `tags`"
                yield (*path, "tags", i), reason
        yield from _responses(document, path, item, operation)
        yield from _rate_limit(document, path, item, operation)
    for path, kind, node in objects:
        target = node.get("operationId")
        if kind == "link" and isinstance(target, str) and target not in paths_by_id:
            reason = f"operation `{target}` does not exist{suggest(target, paths_by_id)}"
            yield (*path, "operationId"), reason


def _operation_id(
    id: str,
    path: NodePath,
    operation: dict[str, Any],
    paths_by_id: dict[str, NodePath],
    handler_issue: Callable[[str, str], str | None],
) -> Iterator[Violation]:
    """Check one operationId, and add it to `paths_by_id` if it is new."""
    id_path = (*path, "operationId")
    first = paths_by_id.setdefault(id, path)
    tag, _, verb = id.partition(".")
    if first != path:
        yield id_path, f"duplicate operationId `{id}`, first used by {format_path(first)}"
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*\.[a-z][a-z0-9]*(_[a-z0-9]+)*", id):
        yield id_path, f"{quote(id)} must have the form `tag.verb`, both in snake_case"
    elif tag not in list_at(operation, "tags"):
        yield id_path, f"`{tag}` is not in the operation's `tags`"
    elif first == path and (issue := handler_issue(tag, function_name(verb))):
        yield id_path, issue


def _responses(document: Any, path: NodePath, item: Any, operation: Any) -> Iterator[Violation]:
    has_path_parameter = "{" in str(path[1])
    required = {
        "400 413 431 500 503": True,
        "401": operation.get("security", document.get("security")),
        "404": has_path_parameter,
        "408 415": "requestBody" in operation,
        "429": "x-rate-limit" in effective_extensions(document, item, operation),
    }
    if not isinstance(responses := operation.get("responses"), dict):
        return
    if not any(re.fullmatch("2[0-9][0-9]", code) for code in responses):
        yield (*path, "responses"), "a 2xx response is missing"
    codes = {code for group, condition in required.items() if condition for code in group.split()}
    if missing := sorted(codes - responses.keys()):
        yield (*path, "responses"), missing_responses(missing)


def _rate_limit(document: Any, path: NodePath, item: Any, operation: Any) -> Iterator[Violation]:
    limit_path = (*path, "x-rate-limit")
    if "x-rate-limit" in operation and "x-probe" in operation:
        yield limit_path, "a probe cannot have a rate limit: Kubernetes calls it continuously"
    limit = mapping_at(effective_extensions(document, item, operation), "x-rate-limit")
    if limit.get("key") == "tenant" and not operation.get("security", document.get("security")):
        yield (
            limit_path if "x-rate-limit" in operation else path,
            "a public operation has no tenant to count by; write `key: client`",
        )


def check_parameters(document: Any, objects: list[SpecObject]) -> Iterator[Violation]:
    """Every parameter has a typed schema and a unique name; path parameters match the path."""
    for path, kind, node in objects:
        if kind == "parameter" and "$ref" not in node:
            if "schema" not in node:
                yield path, "`schema` is missing"
            elif (schema := resolve(document, node["schema"])) and "type" not in schema:
                yield (*path, "schema"), "the schema of a parameter must have a `type`"
        resolved = [resolve(document, entry) for entry in list_at(node, "parameters")]
        counts = Counter((quote(p.get("name")), quote(p.get("in"))) for p in resolved if p)
        for (name, location), count in counts.items():
            if count > 1:
                reason = f"parameter {name} in {location} is declared more than once"
                yield (*path, "parameters"), reason
    for path, _, _ in each_operation(document):
        declared = parameters_of(document, path)
        in_path = set(re.findall(r"\{([^{}]*)\}", str(path[1])))
        for name in sorted(in_path - {name for name, location in declared if location == "path"}):
            yield path, f"path parameter `{name}` is not declared in `parameters`"
        for (name, location), (parameter_path, _) in declared.items():
            if location == "path" and name not in in_path:
                yield parameter_path, f"path parameter `{name}` does not appear in the path"
