"""Changes of what a single value may be: its limits, form, enum, nullability and default."""

from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

from dev.breaking.change import (
    Change,
    as_number,
    breaking,
    join_values,
    safe,
    security_breaking,
)
from openapi.documents import NodePath

Limit = tuple[float, bool]  # whether the value itself is excluded
# By key, the key that excludes the limit itself from what is allowed.
UPPER_LIMITS = {"maxLength": "", "maximum": "exclusiveMaximum", "maxItems": "", "maxProperties": ""}
LOWER_LIMITS = {"minLength": "", "minimum": "exclusiveMinimum", "minItems": "", "minProperties": ""}
WIDER, NARROWER = "values that were valid stay valid", "values that were valid may get 400"
SUBSET, SUPERSET = "responses are a subset of what they were", "clients may reject the new values"


def constraint_changes(
    path: NodePath, old: Mapping[str, Any], new: Mapping[str, Any], *, is_request: bool
) -> Iterator[Change]:
    """Yield the changes of the constraints of one schema, whose type is the same."""
    yield from _upper_limits(path, old, new, is_request=is_request)
    yield from _lower_limits(path, old, new, is_request=is_request)
    yield from _forms(path, old, new, is_request=is_request)
    yield from _multiples(path, old, new, is_request=is_request)
    yield from _unique_items(path, old, new, is_request=is_request)
    yield from _enum((*path, "enum"), old.get("enum"), new.get("enum"), is_request=is_request)
    yield from _nullable(path, old, new, is_request=is_request)
    if is_request and old.get("default") != new.get("default"):
        summary = _summary("default", old.get("default"), new.get("default"))
        reason = "requests that omit the value change their meaning"
        yield breaking((*path, "default"), summary, reason, removed="default" not in new)


def _upper_limits(
    path: NodePath, old: Mapping[str, Any], new: Mapping[str, Any], *, is_request: bool
) -> Iterator[Change]:
    for key, exclusive in UPPER_LIMITS.items():
        before, after = _limit(old, key, exclusive), _limit(new, key, exclusive)
        if before == after:
            continue
        here, summary, removed = (*path, key), _limit_summary(key, before, after), after is None
        # Of two equal limits, the one that is excluded is lower.
        is_wider = after is None or (
            before is not None and _upper_rank(after) > _upper_rank(before)
        )
        if is_wider and is_request:
            yield security_breaking(here, summary, "clients can send more", removed=removed)
        elif is_wider:
            reason = "responses can exceed what clients accept"
            yield breaking(here, summary, reason, removed=removed)
        elif is_request:
            yield breaking(here, summary, "values that were valid get 400")
        else:
            yield safe(here, summary, "responses stay within the old limit")


def _lower_limits(
    path: NodePath, old: Mapping[str, Any], new: Mapping[str, Any], *, is_request: bool
) -> Iterator[Change]:
    for key, exclusive in LOWER_LIMITS.items():
        before, after = _limit(old, key, exclusive), _limit(new, key, exclusive)
        if before == after:
            continue
        here, summary, removed = (*path, key), _limit_summary(key, before, after), after is None
        # A limit that is excluded is higher than one that is not: True sorts after False.
        is_narrower = before is None or (after is not None and after > before)
        if is_narrower and is_request:
            yield breaking(here, summary, "values that were valid get 400")
        elif is_narrower:
            yield safe(here, summary, "responses stay within the old limit")
        elif is_request:
            yield safe(here, summary, WIDER, removed=removed)
        else:
            reason = "responses can fall below what clients accept"
            yield breaking(here, summary, reason, removed=removed)


def _limit(schema: Mapping[str, Any], key: str, exclusive: str) -> Limit | None:
    value = as_number(schema.get(key))
    return None if value is None else (value, schema.get(exclusive) is True)


def _upper_rank(limit: Limit) -> Limit:
    value, is_excluded = limit
    return value, not is_excluded


def _multiples(
    path: NodePath, old: Mapping[str, Any], new: Mapping[str, Any], *, is_request: bool
) -> Iterator[Change]:
    before, after = (_multiple(schema) for schema in (old, new))
    if before == after:
        return
    here, removed = (*path, "multipleOf"), after is None
    summary = _summary("multipleOf", before, after)
    is_wider = after is None or (before is not None and _divides(after, before))
    is_narrower = before is None or (after is not None and _divides(before, after))
    if is_request:
        change = (safe, WIDER) if is_wider else (breaking, NARROWER)
    else:
        change = (safe, SUBSET) if is_narrower else (breaking, SUPERSET)
    severity, reason = change
    yield severity(here, summary, reason, removed=removed)


def _multiple(schema: Mapping[str, Any]) -> float | None:
    """Return `multipleOf`, or None where it is missing or invalid."""
    value = as_number(schema.get("multipleOf"))
    return value if value and value > 0 else None


def _divides(divisor: float, number: float) -> bool:
    return Fraction(str(number)) % Fraction(str(divisor)) == 0


def _unique_items(
    path: NodePath, old: Mapping[str, Any], new: Mapping[str, Any], *, is_request: bool
) -> Iterator[Change]:
    before, after = bool(old.get("uniqueItems")), bool(new.get("uniqueItems"))
    if before == after:
        return
    here, removed = (*path, "uniqueItems"), "uniqueItems" not in new
    summary = "items must now be unique" if after else "items need no longer be unique"
    if is_request:
        severity, reason = (breaking, NARROWER) if after else (safe, WIDER)
    else:
        severity, reason = (safe, SUBSET) if after else (breaking, SUPERSET)
    yield severity(here, summary, reason, removed=removed)


def _forms(
    path: NodePath, old: Mapping[str, Any], new: Mapping[str, Any], *, is_request: bool
) -> Iterator[Change]:
    for key in ("pattern", "format"):
        before, after = old.get(key), new.get(key)
        here, summary = (*path, key), _summary(key, before, after)
        if before == after:
            continue
        if after is None and is_request:
            yield security_breaking(here, summary, "clients can send other text", removed=True)
        elif is_request:
            yield breaking(here, summary, "values that were valid may get 400")
        elif before is not None:
            reason = "clients may reject the new values"
            yield breaking(here, summary, reason, removed=after is None)
        else:
            yield safe(here, summary, "responses are a subset of what they were")


def _enum(path: NodePath, old: Any, new: Any, *, is_request: bool) -> Iterator[Change]:
    if old == new:
        return
    if not isinstance(new, list):
        if is_request:
            yield security_breaking(
                path, "enum removed", "clients can send any value", removed=True
            )
        else:
            reason = "clients do not know the other values"
            yield breaking(path, "enum removed", reason, removed=True)
        return
    if not isinstance(old, list):
        if is_request:
            yield breaking(path, "enum added", "other values get 400")
        else:
            yield safe(path, "enum added", "responses are a subset of what they were")
        return
    if removed := [value for value in old if value not in new]:
        summary = f"enum value {join_values(removed)} removed"
        if is_request:
            yield breaking(path, summary, "requests that send it get 400")
        else:
            yield safe(path, summary, "responses no longer contain it")
    if added := [value for value in new if value not in old]:
        summary = f"enum value {join_values(added)} added"
        if is_request:
            yield safe(path, summary, "clients need not send it")
        else:
            yield breaking(path, summary, "clients do not know it")


def _nullable(
    path: NodePath, old: Mapping[str, Any], new: Mapping[str, Any], *, is_request: bool
) -> Iterator[Change]:
    before, after = bool(old.get("nullable")), bool(new.get("nullable"))
    if before == after:
        return
    here, removed = (*path, "nullable"), "nullable" not in new
    summary = "null is now allowed" if after else "null is no longer allowed"
    if is_request and after:
        yield safe(here, summary, "clients need not send it")
    elif is_request:
        yield breaking(here, summary, "requests that send null get 400", removed=removed)
    elif after:
        yield breaking(here, summary, "clients do not expect null")
    else:
        yield safe(here, summary, "responses no longer contain null", removed=removed)


def _limit_summary(key: str, before: Limit | None, after: Limit | None) -> str:
    if before is None:
        return f"{key} {_limit_text(after)} added"
    if after is None:
        return f"{key} {_limit_text(before)} removed"
    ranks = [_upper_rank(limit) if key in UPPER_LIMITS else limit for limit in (before, after)]
    verb = "raised" if ranks[1] > ranks[0] else "lowered"
    return f"{key} {verb} from {_limit_text(before)} to {_limit_text(after)}"


def _limit_text(limit: Limit | None) -> str:
    value, is_excluded = limit or (None, False)
    return f"{value} (excluded)" if is_excluded else f"{value}"


def _summary(key: str, before: Any, after: Any) -> str:
    if before is None:
        return f"{key} `{after}` added"
    if after is None:
        return f"{key} `{before}` removed"
    return f"{key} changed from `{before}` to `{after}`"
