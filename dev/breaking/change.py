"""A change between two contracts, and what a comparison of them keeps track of."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from openapi.documents import NodePath, locate, mapping_at


class Severity(StrEnum):
    """How much harm a change does."""

    SAFE = "safe"
    BREAKING = "breaking"
    SECURITY_BREAKING = "security-breaking"


class Concern(StrEnum):
    """Who or what a change affects."""

    CLIENTS = "clients"
    POLICIES = "policies"
    MANIFESTS = "manifests"


@dataclass(frozen=True)
class Change:
    """One change, with the reason why it matters.

    If `is_removed`, then `path` is a path of the old contract: the new one does not have it.
    """

    severity: Severity
    concern: Concern
    path: NodePath
    summary: str
    reason: str
    is_removed: bool


def safe(
    path: NodePath,
    summary: str,
    reason: str,
    *,
    concern: Concern = Concern.CLIENTS,
    removed: bool = False,
) -> Change:
    """Return a change that breaks nothing."""
    return Change(Severity.SAFE, concern, path, summary, reason, removed)


def breaking(
    path: NodePath,
    summary: str,
    reason: str,
    *,
    concern: Concern = Concern.CLIENTS,
    removed: bool = False,
) -> Change:
    """Return a change after which something that worked fails."""
    return Change(Severity.BREAKING, concern, path, summary, reason, removed)


def security_breaking(
    path: NodePath,
    summary: str,
    reason: str,
    *,
    concern: Concern = Concern.CLIENTS,
    removed: bool = False,
) -> Change:
    """Return a change after which something that was rejected or hidden no longer is."""
    return Change(Severity.SECURITY_BREAKING, concern, path, summary, reason, removed)


@dataclass(frozen=True)
class Comparison:
    """The two contracts that are compared.

    `shared` is an ordered set, filled on the way: (`$ref`, is_request) of every schema that both
    contracts refer to by the same `$ref`. Each is compared once, at its definition.
    """

    old: dict[str, Any]
    new: dict[str, Any]
    shared: dict[tuple[str, bool], None] = field(default_factory=dict)


def mapping_below(document: Any, path: NodePath) -> dict[str, Any]:
    """Return the mapping at `path`, or an empty one if there is none."""
    for key in path:
        try:
            document = document[key]
        except (LookupError, TypeError):
            return {}
    return mapping_at(document)


def as_number(value: Any) -> float | None:
    """Return `value` if it is a number, else None."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def locate_ref(document: Any, ref: str) -> tuple[NodePath, Any]:
    """Return the path and the node that `ref` names: the root's path and {} if it dangles."""
    try:
        return locate(document, ref)
    except LookupError:
        return (), {}


def join_values(values: list[Any]) -> str:
    """Return values for a summary: `a`, `b`."""
    return ", ".join(f"`{value}`" for value in values)
