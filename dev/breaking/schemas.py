"""Changes between two schemas, as clients send their values or receive them."""

from collections.abc import Iterator, Mapping
from typing import Any

from dev.breaking.change import Change, Comparison, Concern, breaking, safe, security_breaking
from dev.breaking.constraints import constraint_changes
from openapi.documents import NodePath, list_at, mapping_at, resolve


def schema_changes(
    path: NodePath, old: Any, new: Any, comparison: Comparison, *, is_request: bool
) -> Iterator[Change]:
    """Yield the changes of a schema in requests, or else in responses.

    A `$ref` that both contracts use is not followed, but added to `comparison.shared`.
    """
    ref = mapping_at(new).get("$ref")
    if isinstance(ref, str) and ref == mapping_at(old).get("$ref"):
        comparison.shared[ref, is_request] = None
        return
    before, after = resolve(comparison.old, old), resolve(comparison.new, new)
    if before.get("type") != after.get("type"):
        summary = f"type changed from `{before.get('type')}` to `{after.get('type')}`"
        yield breaking(path, summary, "values of the old type do not fit")
        return
    yield from constraint_changes(path, before, after, is_request=is_request)
    yield from _table_changes((*path, "x-table"), before.get("x-table"), after.get("x-table"))
    yield from _undeclared_properties(path, before, after, comparison, is_request=is_request)
    yield from _access_changes(path, before, after, is_request=is_request)
    yield from _property_changes(path, before, after, comparison, is_request=is_request)
    if "items" in before and "items" in after:
        yield from schema_changes(
            (*path, "items"), before["items"], after["items"], comparison, is_request=is_request
        )
    for key in ("allOf", "anyOf", "oneOf"):
        yield from _branch_changes(
            (*path, key),
            list_at(before, key),
            list_at(after, key),
            comparison,
            is_request=is_request,
        )


def _table_changes(path: NodePath, old: Any, new: Any) -> Iterator[Change]:
    if old == new:
        return
    if new is None:
        reason = "the table is dropped, with its policy and its rows"
        yield breaking(path, "x-table removed", reason, concern=Concern.POLICIES, removed=True)
    else:
        summary = "x-table added" if old is None else "x-table changed"
        yield safe(path, summary, "a migration follows", concern=Concern.POLICIES)


def _undeclared_properties(
    path: NodePath,
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    comparison: Comparison,
    *,
    is_request: bool,
) -> Iterator[Change]:
    """Yield the changes of `additionalProperties`: True (the default), False, or a schema."""
    before, after = (schema.get("additionalProperties", True) for schema in (old, new))
    here, removed = (*path, "additionalProperties"), "additionalProperties" not in new
    if isinstance(before, dict) and isinstance(after, dict):
        yield from schema_changes(here, before, after, comparison, is_request=is_request)
    elif before is False and after is not False:
        summary = "undeclared properties are now allowed"
        reason = "clients can send anything" if is_request else "responses can expose more columns"
        yield security_breaking(here, summary, reason, removed=removed)
    elif after is False and before is not False:
        summary = "undeclared properties are no longer allowed"
        reason = "requests that send one get 400" if is_request else "clients may read one"
        yield breaking(here, summary, reason)
    elif isinstance(before, dict) and before:
        summary = "undeclared properties may now have any value"
        reason = "clients can send anything" if is_request else "responses can expose more columns"
        yield security_breaking(here, summary, reason, removed=removed)
    elif isinstance(after, dict) and after:
        summary = "undeclared properties must now have a certain form"
        if is_request:
            yield breaking(here, summary, "values that were valid may get 400")
        else:
            yield safe(here, summary, "responses are a subset of what they were")


def _access_changes(
    path: NodePath, old: Mapping[str, Any], new: Mapping[str, Any], *, is_request: bool
) -> Iterator[Change]:
    key = "readOnly" if is_request else "writeOnly"
    name = "read-only" if is_request else "write-only"
    before, after = bool(old.get(key)), bool(new.get(key))
    here = (*path, key)
    if before and not after:
        reason = "clients can now set it" if is_request else "responses now expose it"
        yield security_breaking(
            here, f"property is no longer {name}", reason, removed=key not in new
        )
    elif after and not before:
        reason = "requests that send it get 400" if is_request else "responses no longer contain it"
        yield breaking(here, f"property is now {name}", reason)


def _property_changes(
    path: NodePath,
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    comparison: Comparison,
    *,
    is_request: bool,
) -> Iterator[Change]:
    before, after = mapping_at(old, "properties"), mapping_at(new, "properties")
    required_before, required_after = list_at(old, "required"), list_at(new, "required")
    for name in before.keys() - after.keys():
        reason = "requests that send it get 400" if is_request else "clients may read it"
        here = (*path, "properties", name)
        yield breaking(here, f"property `{name}` removed", reason, removed=True)
    for name in after.keys() - before.keys():
        here = (*path, "properties", name)
        is_read_only = bool(resolve(comparison.new, after[name]).get("readOnly"))
        if is_request and name in required_after and not is_read_only:
            summary = f"required property `{name}` added"
            yield breaking(here, summary, "requests without it get 400")
        else:
            reason = "clients can omit it" if is_request else "clients can ignore it"
            yield safe(here, f"property `{name}` added", reason)
    for name in before.keys() & after.keys():
        here = (*path, "properties", name)
        was_required, is_required = name in required_before, name in required_after
        if was_required != is_required:
            yield _required_change(here, name, is_required=is_required, is_request=is_request)
        yield from schema_changes(
            here, before[name], after[name], comparison, is_request=is_request
        )


def _required_change(path: NodePath, name: str, *, is_required: bool, is_request: bool) -> Change:
    if is_required:
        summary = f"property `{name}` is now required"
        if is_request:
            return breaking(path, summary, "requests without it get 400")
        return safe(path, summary, "responses always contain it")
    summary = f"property `{name}` is now optional"
    if is_request:
        return safe(path, summary, "clients can still send it")
    return breaking(path, summary, "clients rely on it")


def _branch_changes(
    path: NodePath, old: list[Any], new: list[Any], comparison: Comparison, *, is_request: bool
) -> Iterator[Change]:
    """Yield the changes of allOf, anyOf or oneOf, whose branches are matched by position."""
    is_all_of = path[-1] == "allOf"
    if len(new) < len(old):
        summary, removed = f"branch of {path[-1]} removed", not new
        if is_all_of and is_request:
            yield security_breaking(path, summary, "clients can send more", removed=removed)
        else:
            yield breaking(path, summary, "clients may depend on it", removed=removed)
    elif len(new) > len(old):
        summary = f"branch of {path[-1]} added"
        if is_all_of != is_request:
            reason = "values that were valid stay valid" if is_request else "responses are narrower"
            yield safe(path, summary, reason)
        elif is_request:
            yield breaking(path, summary, "values that were valid may get 400")
        else:
            yield breaking(path, summary, "clients do not know its values")
    for n, (before, after) in enumerate(zip(old, new, strict=False)):
        yield from schema_changes((*path, n), before, after, comparison, is_request=is_request)
