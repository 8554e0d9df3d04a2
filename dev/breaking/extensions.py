"""What changes between the x- keys in force for an operation."""

from collections.abc import Iterator, Mapping
from typing import Any

from dev.breaking.change import Change, Pair, breaking, mapping_below, safe, security
from openapi.documents import NodePath, mapping_at


def inherited(place: NodePath, pair: Pair) -> Iterator[Change]:
    """Compare the x- keys in force at a place, but for those that change further up only."""
    own = [mapping_below(document, place) for document in (pair.old, pair.new)]
    levels = [place[:n] for n in (0, 2, 3) if n <= len(place)]
    before, after = (
        {
            key: value
            for level in levels
            for key, value in mapping_below(document, level).items()
            if key.startswith("x-") and own[0].get(key) != own[1].get(key)
        }
        for document in (pair.old, pair.new)
    )
    yield from _compared(place, before, after)


def _compared(place: NodePath, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    """Compare the x- keys in force for an operation."""
    yield from _internal(place, bool(old.get("x-internal")), bool(new.get("x-internal")))
    yield from _rate(place, old.get("x-rate-limit"), new.get("x-rate-limit"))
    before, after = old.get("x-timeout"), new.get("x-timeout")
    here = (*place, "x-timeout")
    if before != after:
        if after is None or (before is not None and after > before):
            yield security(here, "clients", "a longer timeout", "one request may hold more")
        else:
            yield breaking(here, "clients", "a shorter timeout", "slow requests end in 503")
    yield from _slo((*place, "x-slo"), old.get("x-slo"), new.get("x-slo"))
    if old.get("x-probe") != new.get("x-probe"):
        here = (*place, "x-probe")
        if new.get("x-probe") is None:
            yield breaking(here, "manifests", "no probe calls it", "the cluster is told less", True)
        else:
            yield safe(here, "manifests", "other probes call it", "the manifests follow")
    yield from _access((*place, "x-access"), old.get("x-access"), new.get("x-access"))
    if (lost := old.get("x-tenant")) is not None and lost != new.get("x-tenant"):
        here = (*place, "x-tenant")
        yield security(here, "policies", "x-tenant is lost or another", "no tenant confines it")


def _internal(place: NodePath, old: bool, new: bool) -> Iterator[Change]:
    here = (*place, "x-internal")
    if old and not new:
        yield security(here, "manifests", "no longer internal", "it is routed from outside")
    if new and not old:
        yield breaking(here, "manifests", "internal now", "callers from outside get 404")


def _rate(place: NodePath, old: Any, new: Any) -> Iterator[Change]:
    here = (*place, "x-rate-limit")
    if old == new:
        return
    if new is None:
        yield security(here, "clients", "the rate limit is dropped", "anyone may ask without end")
    elif old is None:
        yield breaking(here, "clients", "a rate limit", "busy clients get 429")
    else:
        was, now = (side["limit"] / side["per"] for side in (old, new))
        if now > was or new["limit"] > old["limit"]:
            yield security(here, "clients", "a higher rate limit", "more may be asked, or guessed")
        elif now < was or new["limit"] < old["limit"]:
            yield breaking(here, "clients", "a lower rate limit", "busy clients get 429")
        if old.get("key") != new.get("key"):
            yield security(here, "clients", "another key is counted", "others share the limit")
        if old.get("fail") == "closed" != new.get("fail"):
            yield security(here, "clients", "fails open", "no limit while the counter is away")


def _slo(here: NodePath, old: Any, new: Any) -> Iterator[Change]:
    if old == new:
        return
    was, now = mapping_at(old), mapping_at(new)
    worse = now.get("availability", 0) < was.get("availability", 0) or now.get(
        "latency_ms", 1e9
    ) > was.get("latency_ms", 1e9)
    if worse:
        yield breaking(here, "clients", "less is promised", "clients count on it", not now)
    else:
        yield safe(here, "manifests", "more is promised", "the alerts follow")


def _access(here: NodePath, old: Any, new: Any) -> Iterator[Change]:
    if old == new:
        return
    was, now = ({*(v if isinstance(v, list) else [v])} if v else None for v in (old, new))
    if was is not None and (now is None or not now <= was):
        yield security(here, "policies", "a role is widened", "more members may do it", now is None)
    else:
        yield breaking(here, "policies", "a role is demanded", "members without it are refused")
