"""The three classes of a change, and what a change is."""

from dataclasses import dataclass

from openapi.documents import Place

SAFE, BREAKING, SECURITY = "safe", "breaking", "security-breaking"


@dataclass(frozen=True)
class Change:
    """One change; `gone` says that `place` is one of the old contract, since the new has it not.

    `concerns` is clients, policies or manifests.
    """

    kind: str
    concerns: str
    place: Place
    what: str
    reason: str
    gone: bool = False


def safe(place: Place, concerns: str, what: str, reason: str, gone: bool = False) -> Change:
    return Change(SAFE, concerns, place, what, reason, gone)


def breaking(place: Place, concerns: str, what: str, reason: str, gone: bool = False) -> Change:
    return Change(BREAKING, concerns, place, what, reason, gone)


def security(place: Place, concerns: str, what: str, reason: str, gone: bool = False) -> Change:
    return Change(SECURITY, concerns, place, what, reason, gone)
