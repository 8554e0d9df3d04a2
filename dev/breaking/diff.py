"""What changes between two contracts, and whether that is safe, breaking or security-breaking.

Pure: nothing here knows of files, revisions or lines. Objects behind a `$ref` are compared once,
where they stand, as what clients send, what they are answered with, or both.
"""

from collections.abc import Iterator
from itertools import chain
from typing import Any

from dev.breaking.change import Change, Pair, mapping_below, resolve_ref, safe
from dev.breaking.deployment import servers, service
from dev.breaking.operations import operations
from dev.breaking.schemas import Shared, schema_changes
from dev.breaking.security import schemes
from openapi.documents import METHODS, NodePath, locate, mapping_at

__all__ = ["Change", "Pair", "acknowledged", "compare"]

ACKNOWLEDGE = "x-acknowledge"


def compare(old: dict[str, Any], new: dict[str, Any]) -> list[Change]:
    """Return every change, in the order of its place; words for people alone are left out."""
    pair = Pair(old, new)
    shared: Shared = {}
    found = list(
        chain(operations(pair, shared), schemes(pair), service(pair), servers(pair), _root(pair))
    )
    done: set[tuple[str, bool]] = set()
    while waiting := [key for key in shared if key not in done]:
        for ref, sent in waiting:
            done.add((ref, sent))
            place, schema = locate(new, ref)
            found += schema_changes(place, resolve_ref(old, ref), schema, sent, pair, shared)
    return sorted(dict.fromkeys(found), key=lambda change: [str(part) for part in change.place])


def acknowledged(change: Change, pair: Pair) -> str | None:
    """Return why a change is meant: the `x-acknowledge` of the nearest that can carry one.

    Only one that came, or changed, together with the change counts: else it would cover all that
    is done there later. The root's covers what nothing below it can carry.
    """
    holders = [place for place in _above(change.place) if _can_carry(place, pair.new)]
    for place in holders or [()]:
        words = mapping_below(pair.new, place).get(ACKNOWLEDGE)
        if words is not None and words != mapping_below(pair.old, place).get(ACKNOWLEDGE):
            return str(mapping_at(words).get("reason", ""))
    return None


def _above(place: NodePath) -> list[NodePath]:
    return [place[:n] for n in range(len(place), 0, -1)]


def _can_carry(place: NodePath, document: Any) -> bool:
    node = mapping_below(document, place)
    if place[0] == "paths":
        depth = len(place)
        return bool(node) and (depth == 2 or (depth == 3 and place[2] in METHODS))
    is_schema = place[:2] == ("components", "schemas") and len(place) >= 3
    return is_schema and bool(node) and (len(place) == 3 or place[-2] == "properties")


def _root(pair: Pair) -> Iterator[Change]:
    was, now = (mapping_at(d, "info").get("version") for d in (pair.old, pair.new))
    if was != now:
        yield safe(("info", "version"), "clients", f"version {was} is {now} now", "it says so")
