"""What a change is, its three classes, and the two contracts that it is between."""

from dataclasses import dataclass
from typing import Any

from openapi.documents import NodePath, locate, mapping_at

SAFE, BREAKING, SECURITY = "safe", "breaking", "security-breaking"


@dataclass(frozen=True)
class Change:
    """One change; `gone` says that `place` is one of the old contract, since the new has it not.

    `concerns` is clients, policies or manifests.
    """

    kind: str
    concerns: str
    place: NodePath
    what: str
    reason: str
    gone: bool = False


def safe(place: NodePath, concerns: str, what: str, reason: str, gone: bool = False) -> Change:
    return Change(SAFE, concerns, place, what, reason, gone)


def breaking(place: NodePath, concerns: str, what: str, reason: str, gone: bool = False) -> Change:
    return Change(BREAKING, concerns, place, what, reason, gone)


def security(place: NodePath, concerns: str, what: str, reason: str, gone: bool = False) -> Change:
    return Change(SECURITY, concerns, place, what, reason, gone)


@dataclass(frozen=True)
class Pair:
    """Both contracts, whole."""

    old: dict[str, Any]
    new: dict[str, Any]


def mapping_below(document: Any, place: NodePath) -> dict[str, Any]:
    """Return the mapping at `place`, or an empty one where there is none."""
    for key in place:
        try:
            document = document[key]
        except (LookupError, TypeError):
            return {}
    return mapping_at(document)


def resolve_ref(document: Any, ref: str) -> Any:
    """Return what a `$ref` names, or an empty mapping where it leads nowhere."""
    try:
        return locate(document, ref)[1]
    except LookupError:
        return {}
