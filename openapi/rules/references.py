"""The rules for `$ref`."""

from collections.abc import Iterator
from typing import Any

from openapi.documents import MAX_REF_DEPTH, NodePath, locate, mapping_at
from openapi.object_tree import REFERABLE, Kind, SpecObject
from openapi.rules.messages import Violation, closest_match, quote

MAX_REF_VALUES = 50_000  # values that a $ref may expand to


def check_references(document: Any, objects: list[SpecObject]) -> Iterator[Violation]:
    """Each `$ref` has no siblings and references an object of the right kind in this document."""
    kinds = {path: kind for path, kind, _ in objects}
    stack: list[tuple[NodePath, Any]] = [((), document)]
    while stack:
        path, node = stack.pop()
        children = node.items() if isinstance(node, dict) else enumerate(node)
        stack += [((*path, k), v) for k, v in children if isinstance(v, dict | list)]
        ref = mapping_at(node).get("$ref")
        if not isinstance(ref, str):
            continue
        kind, ref_path = kinds.get(path), (*path, "$ref")
        if kind not in REFERABLE:
            yield ref_path, "a $ref is not allowed here"
            continue
        for key in node.keys() - {"$ref"}:
            yield (*path, key), "is ignored next to a $ref; move it to the referenced object"
        if not ref.startswith("#/"):
            yield ref_path, f"external $ref {quote(ref)} is not supported; use `#/…`"
            continue
        noun = REFERABLE[kind]
        try:
            target = locate(document, ref)[0]
        except LookupError:
            hint = _similar_component(ref, kinds, kind)
            yield ref_path, f"references {noun} that does not exist: {quote(ref)}{hint}"
            continue
        if kinds.get(target) != kind:
            yield ref_path, f"must reference {noun}, which {quote(ref)} is not"
    yield from _check_expansion(document)


def _similar_component(ref: str, kinds: dict[NodePath, Kind], kind: Kind) -> str:
    """Return a hint that names the component with the most similar name, or an empty string."""
    pointers = {
        path[2]: f"#/{'/'.join(map(str, path))}"
        for path, other in kinds.items()
        if other == kind and len(path) == 3 and path[0] == "components"
    }
    name = closest_match(ref.rpartition("/")[2], pointers)
    return f"; did you mean `{pointers[name]}`?" if name else ""


def _check_expansion(document: Any) -> list[Violation]:
    """Return the `$ref`s that cannot be expanded: they recurse, or multiply beyond the limits.

    The size of a node is the number of values and of levels that it expands to.
    """
    violations: list[Violation] = []
    sizes: dict[NodePath, tuple[int, int]] = {}
    trail: set[NodePath] = set()  # the targets being expanded

    def size(path: NodePath, node: Any, level: int) -> tuple[int, int]:
        ref = mapping_at(node).get("$ref")
        if isinstance(ref, str):
            return size_of_target(path, ref, level)
        values, levels = 1, 0
        children = mapping_at(node).items() if not isinstance(node, list) else enumerate(node)
        for key, child in children:
            child_values, child_levels = size((*path, key), child, level + 1)
            values, levels = values + child_values, max(levels, child_levels)
        return values, levels + 1

    def size_of_target(path: NodePath, ref: str, level: int) -> tuple[int, int]:
        try:
            target, node = locate(document, ref)
        except LookupError:
            return 1, 1
        ref_path = (*path, "$ref")
        if target in trail:
            reason = f"recursive schemas are not supported: {quote(ref)} contains itself"
            violations.append((ref_path, reason))
            return 1, 1
        if target not in sizes and level < MAX_REF_DEPTH:
            trail.add(target)
            sizes[target] = size(target, node, level + 1)
            trail.remove(target)
        values, levels = sizes.get(target, (0, MAX_REF_DEPTH))
        if values <= MAX_REF_VALUES and level + levels <= MAX_REF_DEPTH:
            return values, levels
        limits = f"{MAX_REF_VALUES:,} values or {MAX_REF_DEPTH} levels"
        violations.append((ref_path, f"$ref {quote(ref)} expands to more than {limits}"))
        return 1, 1

    size((), document, 0)
    return violations
