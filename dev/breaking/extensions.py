"""Changes of the x- keys of operations: limits, service levels, probes and internal operations."""

from collections.abc import Iterator, Mapping
from typing import Any

from dev.breaking.change import (
    Change,
    Comparison,
    Concern,
    as_number,
    breaking,
    mapping_below,
    safe,
    security_breaking,
)
from openapi.documents import NodePath, mapping_at

DEFAULT_TIMEOUT_SECONDS = 2  # openapi/extensions.schema.json, `timeout`


def inherited_changes(path: NodePath, comparison: Comparison) -> Iterator[Change]:
    """Yield the changes of the inheritable x- keys in force at `path`.

    It is that of the root, a path item or an operation. A key that changes only at a higher level
    is reported there.
    """
    for key, changes in (
        ("x-timeout", _timeout_changes),
        ("x-rate-limit", _rate_limit_changes),
        ("x-slo", _slo_changes),
    ):
        nodes = [mapping_below(document, path) for document in (comparison.old, comparison.new)]
        if nodes[0].get(key) != nodes[1].get(key):
            before = _value_in_force(comparison.old, path, key)
            after = _value_in_force(comparison.new, path, key)
            yield from changes((*path, key), before, after, removed=key not in nodes[1])


def _value_in_force(document: Any, path: NodePath, key: str) -> Any:
    levels = [mapping_below(document, path[:length]) for length in (0, 2, 3) if length <= len(path)]
    return next((level[key] for level in reversed(levels) if key in level), None)


def own_changes(path: NodePath, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    """Yield the changes of x- keys that only an operation itself can have."""
    before, after = bool(old.get("x-internal")), bool(new.get("x-internal"))
    here = (*path, "x-internal")
    if before and not after:
        reason = "it becomes reachable from outside the cluster"
        removed = "x-internal" not in new
        yield security_breaking(
            here,
            "operation is no longer internal",
            reason,
            concern=Concern.MANIFESTS,
            removed=removed,
        )
    if after and not before:
        reason = "callers from outside the cluster get 404"
        yield breaking(here, "operation is now internal", reason, concern=Concern.MANIFESTS)
    if old.get("x-probe") != new.get("x-probe"):
        here = (*path, "x-probe")
        if new.get("x-probe") is None:
            reason = "Kubernetes no longer checks the service with this operation"
            yield breaking(here, "probe removed", reason, concern=Concern.MANIFESTS, removed=True)
        else:
            reason = "the generated manifests follow"
            yield safe(here, "probe changed", reason, concern=Concern.MANIFESTS)


def _timeout_changes(path: NodePath, old: Any, new: Any, *, removed: bool) -> Iterator[Change]:
    before, after = (as_number(side) or DEFAULT_TIMEOUT_SECONDS for side in (old, new))
    change = f"from {before:g} to {after:g} seconds"
    if after > before:
        reason = "one request can occupy the database longer"
        yield security_breaking(path, f"timeout raised {change}", reason, removed=removed)
    elif after < before:
        reason = "slow requests end with 503"
        yield breaking(path, f"timeout lowered {change}", reason, removed=removed)


def _rate_limit_changes(path: NodePath, old: Any, new: Any, *, removed: bool) -> Iterator[Change]:
    before, after = mapping_at(old), mapping_at(new)
    if before == after:
        return
    if not after:
        reason = "clients can send any number of requests"
        yield security_breaking(path, "rate limit removed", reason, removed=removed)
        return
    if not before:
        yield breaking(path, "rate limit added", "busy clients get 429")
        return
    (limit_before, rate_before), (limit_after, rate_after) = _rate(before), _rate(after)
    change = f"from {_rate_text(before)} to {_rate_text(after)}"
    if rate_after > rate_before or limit_after > limit_before:
        reason = "clients can send more requests, and guess faster"
        yield security_breaking(path, f"rate limit raised {change}", reason)
    elif rate_after < rate_before or limit_after < limit_before:
        yield breaking(path, f"rate limit lowered {change}", "busy clients get 429")
    if before.get("key") != after.get("key"):
        reason = "callers that were limited may no longer be"
        yield security_breaking(path, "rate limit key changed", reason)
    if before.get("fail") == "closed" and after.get("fail") != "closed":
        reason = "each replica counts for itself while Redis is unavailable"
        yield security_breaking(path, "rate limit now fails open", reason)


def _rate(rate_limit: Mapping[str, Any]) -> tuple[float, float]:
    """Return the limit, and the requests per second that it allows."""
    limit = as_number(rate_limit.get("limit")) or 0
    return limit, limit / (as_number(rate_limit.get("per")) or 1)


def _rate_text(rate_limit: Mapping[str, Any]) -> str:
    return f"{rate_limit.get('limit')} per {rate_limit.get('per')} seconds"


def _slo_changes(path: NodePath, old: Any, new: Any, *, removed: bool) -> Iterator[Change]:
    before, after = mapping_at(old), mapping_at(new)
    if before == after:
        return
    is_less_available = _availability(after) < _availability(before)
    is_slower = _latency(after) > _latency(before)
    if is_less_available or is_slower:
        reason = "clients rely on the promised level"
        yield breaking(path, "service level lowered", reason, removed=removed)
    else:
        reason = "the generated alerts follow"
        yield safe(path, "service level raised", reason, concern=Concern.MANIFESTS, removed=removed)


def _availability(slo: Mapping[str, Any]) -> float:
    return as_number(slo.get("availability")) or 0


def _latency(slo: Mapping[str, Any]) -> float:
    latency = as_number(slo.get("latency_ms"))
    return float("inf") if latency is None else latency
