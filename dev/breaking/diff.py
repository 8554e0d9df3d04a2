"""All changes between two contracts, and which of them the new contract acknowledges.

Pure: nothing here knows about files, git revisions or lines. A schema behind a `$ref` is compared
once, at its definition: as part of requests, of responses, or both.
"""

from collections.abc import Iterator
from itertools import chain
from typing import Any

from dev.breaking.change import Change, Comparison, locate_ref, mapping_below, safe
from dev.breaking.deployment import environment_changes, service_changes
from dev.breaking.operations import operation_changes
from dev.breaking.schemas import schema_changes
from dev.breaking.security import scheme_changes
from openapi.documents import METHODS, NodePath, mapping_at

ACKNOWLEDGE = "x-acknowledge"


def compare(old: dict[str, Any], new: dict[str, Any]) -> list[Change]:
    """Return every change, ordered by path; titles, descriptions and examples do not count."""
    comparison = Comparison(old, new)
    changes = list(
        chain(
            operation_changes(comparison),
            scheme_changes(comparison),
            service_changes(comparison),
            environment_changes(comparison),
            _version_changes(comparison),
        )
    )
    compared: set[tuple[str, bool]] = set()
    while remaining := [key for key in comparison.shared if key not in compared]:
        for ref, is_request in remaining:
            compared.add((ref, is_request))
            path, after = locate_ref(new, ref)
            _, before = locate_ref(old, ref)
            changes += schema_changes(path, before, after, comparison, is_request=is_request)
    return sorted(dict.fromkeys(changes), key=lambda change: [str(part) for part in change.path])


def acknowledgement(change: Change, old: dict[str, Any], new: dict[str, Any]) -> str | None:
    """Return the reason that the new contract gives for a change, or None.

    It comes from the `x-acknowledge` of the nearest node that can have one; the root's covers only
    what no node below it can acknowledge. One that the old contract has already does not count: it
    would cover every later change of the same node.
    """
    ancestors = [change.path[:length] for length in range(len(change.path), 0, -1)]
    for path in [path for path in ancestors if _can_acknowledge(path, new)] or [()]:
        acknowledged = mapping_below(new, path).get(ACKNOWLEDGE)
        if acknowledged is not None and acknowledged != mapping_below(old, path).get(ACKNOWLEDGE):
            return str(mapping_at(acknowledged).get("reason", ""))
    return None


def _can_acknowledge(path: NodePath, document: Any) -> bool:
    if not mapping_below(document, path):
        return False
    if path[0] == "paths":
        return len(path) == 2 or (len(path) == 3 and path[2] in METHODS)
    is_schema = path[:2] == ("components", "schemas") and len(path) >= 3
    return is_schema and (len(path) == 3 or path[-2] == "properties")


def _version_changes(comparison: Comparison) -> Iterator[Change]:
    before, after = (
        mapping_at(document, "info").get("version") for document in (comparison.old, comparison.new)
    )
    if before != after:
        summary = f"version changed from {before} to {after}"
        yield safe(("info", "version"), summary, "only a higher major version may break anything")
