"""What each `$ref` of a contract leads to."""

from collections.abc import Iterator
from typing import Any

from openapi.documents import MAX_REF_DEPTH, OBJECT_KINDS, NodePath, SpecObject, locate, mapping_at
from openapi.rules.messages import Violation, quote, suggest_ref

MOST = 50_000  # values that a $ref may unfold to


def references(document: Any, objects: list[SpecObject]) -> Iterator[Violation]:
    """Each `$ref` stands alone and leads, inside the document, to an object of its own kind."""
    kinds = {place: kind for place, kind, _ in objects}
    referable = {kind[1:] for kind in OBJECT_KINDS["components"].values()}
    stack: list[tuple[NodePath, Any]] = [((), document)]
    while stack:
        place, node = stack.pop()
        children = node.items() if isinstance(node, dict) else enumerate(node)
        stack += [((*place, k), v) for k, v in children if isinstance(v, dict | list)]
        ref = mapping_at(node).get("$ref")
        if not isinstance(ref, str):
            continue
        kind, here = kinds.get(place), (*place, "$ref")
        if kind not in referable:
            yield here, "no $ref may stand here"
            continue
        for key in node.keys() - {"$ref"}:
            yield (*place, key), "stands beside a $ref, which hides it"
        if not ref.startswith("#/"):
            yield here, f"external $ref {quote(ref)}: only `#/…` is followed"
            continue
        try:
            target = locate(document, ref)[0]
        except LookupError:
            yield here, f"$ref {quote(ref)} leads nowhere{_meant(ref, kinds, kind)}"
            continue
        if kinds.get(target) != kind:
            yield here, f"$ref {quote(ref)} leads to no {kind}"
    yield from _unfolding(document)


def _meant(ref: str, kinds: dict[NodePath, str], kind: str | None) -> str:
    """Return a hint to the component whose name is the nearest."""
    known = [p for p, k in kinds.items() if k == kind and len(p) == 3 and p[0] == "components"]
    name = suggest_ref(ref.rpartition("/")[2], [p[2] for p in known])
    found = next((p for p in known if p[2] == name), None)
    return f"; did you mean `#/{'/'.join(map(str, found))}`?" if found else ""


def _unfolding(document: Any) -> list[Violation]:
    """Find what cannot be unfolded: recursion, and references that multiply without bound."""
    found: list[Violation] = []
    weights: dict[NodePath, tuple[int, int]] = {}
    trail: set[NodePath] = set()

    def weight(place: NodePath, node: Any, level: int) -> tuple[int, int]:
        ref = mapping_at(node).get("$ref")
        if isinstance(ref, str):
            return weight_of(place, ref, level)
        count, depth = 1, 0
        children = mapping_at(node).items() if not isinstance(node, list) else enumerate(node)
        for key, child in children:
            inner_count, inner_depth = weight((*place, key), child, level + 1)
            count, depth = count + inner_count, max(depth, inner_depth)
        return count, depth + 1

    def weight_of(place: NodePath, ref: str, level: int) -> tuple[int, int]:
        try:
            target, inner = locate(document, ref)
        except LookupError:
            return 1, 1
        if target in trail:
            found.append(((*place, "$ref"), f"recursive schema: {quote(ref)} contains itself"))
            return 1, 1
        if target not in weights and level < MAX_REF_DEPTH:
            trail.add(target)
            weights[target] = weight(target, inner, level + 1)
            trail.remove(target)
        count, depth = weights.get(target, (0, MAX_REF_DEPTH))
        if count <= MOST and level + depth <= MAX_REF_DEPTH:
            return count, depth
        limit = f"{MOST} values or {MAX_REF_DEPTH} levels"
        found.append(((*place, "$ref"), f"$ref {quote(ref)} unfolds to more than {limit}"))
        return 1, 1

    weight((), document, 0)
    return found
