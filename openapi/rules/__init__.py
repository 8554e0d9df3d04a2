"""The rules that a contract must follow: each yields the violations of one topic.

The rules know neither files nor lines, and none raises for a malformed document: a rule skips
nodes of an unexpected type, which `structure` reports.

`check` applies the rules for every contract. `openapi.contract` applies those for `x-table`
itself: `tables` and `table_operations`.
"""

from collections.abc import Callable
from typing import Any

from openapi.object_tree import walk
from openapi.rules.examples import check_examples
from openapi.rules.messages import Violation
from openapi.rules.operations import check_operations, check_parameters, check_paths
from openapi.rules.references import check_references
from openapi.rules.schemas import check_schemas
from openapi.rules.security import check_security
from openapi.rules.structure import check_structure

__all__ = ["Violation", "check"]


def check(
    document: dict[str, Any],
    openapi: dict[str, Any],
    extensions: dict[str, Any],
    handler_issue: Callable[[str, str], str | None],
) -> list[Violation]:
    """Return all violations of a contract.

    `openapi` and `extensions` are JSON Schemas. `handler_issue(tag, function)` returns why that
    function cannot handle an operation, or None.
    """
    objects = list(walk(document))
    broken_references = list(check_references(document, objects))
    violations = [
        *broken_references,
        *check_paths(document),
        *check_schemas(objects),
        *check_parameters(document, objects),
        *check_security(document, objects),
        *check_operations(document, objects, handler_issue),
    ]
    # A rule's reason is more specific than the JSON Schema's for the same node.
    reported = {path for path, _ in violations}
    violations += [
        violation
        for violation in check_structure(document, objects, openapi, extensions)
        if violation[0] not in reported
    ]
    if broken_references:  # no validator can be built
        return violations
    build_errors: list[Violation] = []
    violations += check_examples(document, objects, build_errors)
    return violations or build_errors
