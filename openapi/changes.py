"""What changes between two contracts, and whether that is safe, breaking or security-breaking.

Pure: nothing here knows of files, revisions or lines. Objects behind a `$ref` are compared once,
where they stand, as what clients send, what they are answered with, or both.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

from openapi.documents import METHODS, Place, entries, locate, resolve, table
from openapi.limits import schema_changes
from openapi.words import Change, breaking, safe, security

ACKNOWLEDGE = "x-acknowledge"


@dataclass(frozen=True)
class Pair:
    """Both contracts, whole."""

    old: dict[str, Any]
    new: dict[str, Any]


def compare(old: dict[str, Any], new: dict[str, Any]) -> list[Change]:
    """Return every change, in the order of its place; words for people alone are left out."""
    pair = Pair(old, new)
    shared: dict[tuple[str, bool], None] = {}
    found = list(
        chain(_paths(pair, shared), _schemes(pair), _service(pair), _servers(pair), _root(pair))
    )
    done: set[tuple[str, bool]] = set()
    while waiting := [key for key in shared if key not in done]:
        for ref, sent in waiting:
            done.add((ref, sent))
            place, schema = locate(new, ref)
            found += schema_changes(place, _at(old, ref), schema, sent, pair.old, pair.new, shared)
    return sorted(dict.fromkeys(found), key=lambda change: [str(part) for part in change.place])


def acknowledged(change: Change, pair: Pair) -> str | None:
    """Return why a change is meant: the `x-acknowledge` of the nearest that can carry one.

    Only one that came, or changed, together with the change counts: else it would cover all that
    is done there later. The root's covers what nothing below it can carry.
    """
    holders = [place for place in _above(change.place) if _can_carry(place, pair.new)]
    for place in holders or [()]:
        words = _walk(pair.new, place).get(ACKNOWLEDGE)
        if words is not None and words != _walk(pair.old, place).get(ACKNOWLEDGE):
            return str(table(words).get("reason", ""))
    return None


def _above(place: Place) -> list[Place]:
    return [place[:n] for n in range(len(place), 0, -1)]


def _can_carry(place: Place, document: Any) -> bool:
    node = _walk(document, place)
    if place[0] == "paths":
        depth = len(place)
        return bool(node) and (depth == 2 or (depth == 3 and place[2] in METHODS))
    is_schema = place[:2] == ("components", "schemas") and len(place) >= 3
    return is_schema and bool(node) and (len(place) == 3 or place[-2] == "properties")


def _walk(document: Any, place: Place) -> dict[str, Any]:
    for key in place:
        try:
            document = document[key]
        except (LookupError, TypeError):
            return {}
    return table(document)


def _at(document: Any, ref: str) -> Any:
    try:
        return locate(document, ref)[1]
    except LookupError:
        return {}


# Operations


def _paths(pair: Pair, shared: dict[tuple[str, bool], None]) -> Iterator[Change]:
    old, new = _operations(pair.old), _operations(pair.new)
    for place in old.keys() - new.keys():
        yield breaking(
            place, "clients", "the operation is gone", "its callers get 404 or 405", True
        )
    for place in new.keys() - old.keys():
        if _security(pair.new, new[place]):
            yield safe(place, "clients", "a new operation", "nobody calls it yet")
        else:
            yield security(
                place, "clients", "a new public operation", "anyone may call it without a token"
            )
    for place in old.keys() & new.keys():
        yield from _operation(place, pair, old[place], new[place], shared)
    yield from _inherited((), pair)
    for path in table(pair.old, "paths").keys() & table(pair.new, "paths").keys():
        yield from _inherited(("paths", path), pair)


def _operations(document: Any) -> dict[Place, dict[str, Any]]:
    return {
        ("paths", path, method): operation
        for path, item in table(document, "paths").items()
        for method, operation in table(item).items()
        if method in METHODS and isinstance(operation, dict)
    }


def _operation(
    place: Place, pair: Pair, old: Any, new: Any, shared: dict[tuple[str, bool], None]
) -> Iterator[Change]:
    if old.get("operationId") != new.get("operationId"):
        yield breaking(
            (*place, "operationId"), "clients", "another operationId", "generated clients rename it"
        )
    yield from _required_security(place, _security(pair.old, old), _security(pair.new, new))
    yield from _parameters(place, pair, shared)
    yield from _body(place, pair, old, new, shared)
    yield from _responses(place, pair, old, new, shared)
    yield from _inherited(place, pair)


def _inherited(place: Place, pair: Pair) -> Iterator[Change]:
    """Compare the x- keys in force at a place, but for those that change further up only."""
    own = [_walk(document, place) for document in (pair.old, pair.new)]
    levels = [place[:n] for n in (0, 2, 3) if n <= len(place)]
    before, after = (
        {
            key: value
            for level in levels
            for key, value in _walk(document, level).items()
            if key.startswith("x-") and own[0].get(key) != own[1].get(key)
        }
        for document in (pair.old, pair.new)
    )
    yield from _words(place, before, after)


def _security(document: Any, operation: Any) -> list[Any]:
    found = operation.get("security", document.get("security", []))
    return [entry for entry in found if entry] if isinstance(found, list) else []


def _required_security(place: Place, old: list[Any], new: list[Any]) -> Iterator[Change]:
    here = (*place, "security")
    if old and not new:
        yield security(here, "clients", "security is dropped", "no token is needed any more")
    elif new and not old:
        yield breaking(here, "clients", "a token is needed now", "callers without one get 401")
    elif {name for e in old for name in e} != {name for e in new for name in e}:
        yield security(here, "clients", "another security scheme", "other tokens open it")
    else:
        before, after = ({s for e in side for v in e.values() for s in v} for side in (old, new))
        if before - after:
            yield security(here, "clients", "a scope is dropped", "more tokens open it")
        if after - before:
            yield breaking(here, "clients", "a scope is demanded", "tokens without it are refused")


def _parameters(place: Place, pair: Pair, shared: dict[tuple[str, bool], None]) -> Iterator[Change]:
    old, new = _declared(pair.old, place), _declared(pair.new, place)
    for name, (where, _) in old.items():
        if name not in new:
            what = f"parameter {name[0]} is gone"
            yield breaking(where, "clients", what, "a request that sends it gets 400", True)
    for name, (where, parameter) in new.items():
        if name not in old:
            if parameter.get("required"):
                what = f"a new parameter {name[0]} that is required"
                yield breaking(where, "clients", what, "requests without it get 400")
            else:
                yield safe(where, "clients", f"a new parameter {name[0]}", "it may be left out")
            continue
        before = old[name][1]
        if parameter.get("required") and not before.get("required"):
            what = f"parameter {name[0]} is required now"
            yield breaking(where, "clients", what, "requests without it get 400")
        elif before.get("required") and not parameter.get("required"):
            yield safe(
                where, "clients", f"parameter {name[0]} may be left out", "it may still come"
            )
        yield from schema_changes(
            (*where, "schema"),
            before.get("schema", {}),
            parameter.get("schema", {}),
            True,
            pair.old,
            pair.new,
            shared,
        )


def _declared(document: Any, place: Place) -> dict[tuple[str, str], tuple[Place, dict[str, Any]]]:
    """Return the parameters by (name, in), each where it stands once its `$ref` is followed."""
    _, path, method = place
    item = table(document, "paths", str(path))
    found = {}
    for owner, node in ((place[:-1], item), (place, table(item, str(method)))):
        for n, entry in enumerate(entries(node, "parameters")):
            where: Place = (*owner, "parameters", n)
            ref = table(entry).get("$ref")
            if isinstance(ref, str):
                where = locate(document, ref)[0] if _at(document, ref) else where
            parameter = resolve(document, entry)
            found[str(parameter.get("name")), str(parameter.get("in"))] = where, parameter
    return found


def _body(
    place: Place, pair: Pair, old: Any, new: Any, shared: dict[tuple[str, bool], None]
) -> Iterator[Change]:
    here = (*place, "requestBody")
    before = resolve(pair.old, old.get("requestBody"))
    after = resolve(pair.new, new.get("requestBody"))
    if before and not after:
        yield breaking(here, "clients", "the body is gone", "what callers send is not read", True)
    if after and not before:
        if after.get("required"):
            yield breaking(here, "clients", "a body is required now", "requests without get 400")
        else:
            yield safe(here, "clients", "a body may be sent", "it may be left out")
    if before and after:
        if after.get("required") and not before.get("required"):
            yield breaking(here, "clients", "the body is required now", "requests without get 400")
        yield from _content(here, pair, before, after, True, shared)


def _responses(
    place: Place, pair: Pair, old: Any, new: Any, shared: dict[tuple[str, bool], None]
) -> Iterator[Change]:
    before, after = table(old, "responses"), table(new, "responses")
    here = (*place, "responses")
    for code in before.keys() - after.keys():
        if code.startswith("2"):
            yield breaking((*here, code), "clients", f"{code} is gone", "clients wait for it", True)
        else:
            yield safe((*here, code), "clients", f"{code} is gone", "it is never answered", True)
    for code in after.keys() - before.keys():
        if code.startswith("2"):
            yield breaking((*here, code), "clients", f"a new {code}", "clients do not know it")
        else:
            yield safe((*here, code), "clients", f"a new {code}", "clients know its class")
    for code in before.keys() & after.keys():
        was, now = (resolve(d, r) for d, r in ((pair.old, before[code]), (pair.new, after[code])))
        for name in table(was, "headers").keys() - table(now, "headers").keys():
            yield breaking(
                (*here, code, "headers", name),
                "clients",
                f"header {name} is gone",
                "clients may read it",
                True,
            )
        yield from _content((*here, code), pair, was, now, False, shared)


def _content(
    here: Place,
    pair: Pair,
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    sent: bool,
    shared: dict[tuple[str, bool], None],
) -> Iterator[Change]:
    before, after = table(old, "content"), table(new, "content")
    for kind in before.keys() - after.keys():
        where = (*here, "content", kind)
        yield breaking(where, "clients", f"{kind} is gone", "clients send or read it", True)
    for kind in after.keys() - before.keys():
        yield safe((*here, "content", kind), "clients", f"{kind} too", "it is chosen by clients")
    for kind in before.keys() & after.keys():
        was, now = table(before[kind]).get("schema", {}), table(after[kind]).get("schema", {})
        where = (*here, "content", kind, "schema")
        yield from schema_changes(where, was, now, sent, pair.old, pair.new, shared)


# The x- keys


def _words(place: Place, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
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


def _internal(place: Place, old: bool, new: bool) -> Iterator[Change]:
    here = (*place, "x-internal")
    if old and not new:
        yield security(here, "manifests", "no longer internal", "it is routed from outside")
    if new and not old:
        yield breaking(here, "manifests", "internal now", "callers from outside get 404")


def _rate(place: Place, old: Any, new: Any) -> Iterator[Change]:
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


def _slo(here: Place, old: Any, new: Any) -> Iterator[Change]:
    if old == new:
        return
    was, now = table(old), table(new)
    worse = now.get("availability", 0) < was.get("availability", 0) or now.get(
        "latency_ms", 1e9
    ) > was.get("latency_ms", 1e9)
    if worse:
        yield breaking(here, "clients", "less is promised", "clients count on it", not now)
    else:
        yield safe(here, "manifests", "more is promised", "the alerts follow")


def _access(here: Place, old: Any, new: Any) -> Iterator[Change]:
    if old == new:
        return
    was, now = ({*(v if isinstance(v, list) else [v])} if v else None for v in (old, new))
    if was is not None and (now is None or not now <= was):
        yield security(here, "policies", "a role is widened", "more members may do it", now is None)
    else:
        yield breaking(here, "policies", "a role is demanded", "members without it are refused")


def _schemes(pair: Pair) -> Iterator[Change]:
    old = table(pair.old, "components", "securitySchemes")
    new = table(pair.new, "components", "securitySchemes")
    for name, was in old.items():
        here: Place = ("components", "securitySchemes", name)
        now = table(new.get(name))
        if not now:
            yield security(here, "policies", f"security scheme {name} is gone", "it guards", True)
            continue
        if any(was.get(key) != now.get(key) for key in ("type", "scheme", "in", "name")):
            yield security(here, "clients", f"scheme {name} is another", "other tokens open it")
        if was.get("x-tenant") != now.get("x-tenant"):
            reason = "the policies are bound to another tenant, or to none"
            yield security((*here, "x-tenant"), "policies", "x-tenant is lost or another", reason)
        yield from _token((*here, "x-token"), table(was, "x-token"), table(now, "x-token"))


def _token(here: Place, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    if old and not new:
        yield security(here, "clients", "x-token is lost", "nothing says what a token must claim")
        return
    for key in ("issuer", "audience"):
        if old.get(key) != new.get(key):
            yield breaking((*here, key), "clients", f"another {key}", "tokens in use are refused")
    was, now = old.get("lifetime", 0), new.get("lifetime", 0)
    if now > was:
        yield security((*here, "lifetime"), "clients", "tokens live longer", "so do stolen ones")
    elif now < was:
        yield breaking(
            (*here, "lifetime"), "clients", "tokens live shorter", "clients get 401 earlier"
        )


def _service(pair: Pair) -> Iterator[Change]:
    old, new = table(pair.old, "x-service"), table(pair.new, "x-service")
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) == new.get(key):
            continue
        here: Place = ("x-service", key)
        if key == "source":
            reason = "who writes there decides what runs in the cluster"
            yield security(here, "manifests", "another source", reason, key not in new)
        elif key in ("name", "port", "image"):
            yield breaking(here, "manifests", f"another {key}", "running releases are replaced")
        else:
            yield safe(here, "manifests", f"another {key}", "the manifests follow", key not in new)


def _servers(pair: Pair) -> Iterator[Change]:
    old, new = _environments(pair.old), _environments(pair.new)
    for name, (place, _) in old.items():
        if name not in new:
            yield breaking(
                place, "manifests", f"environment {name} is gone", "its release goes", True
            )
    for name, (place, server) in new.items():
        if name not in old:
            yield safe(place, "manifests", f"a new environment {name}", "nothing runs there yet")
        else:
            yield from _environment(place, name, old[name][1], server)


def _environments(document: Any) -> dict[str, tuple[Place, dict[str, Any]]]:
    return {
        str(table(server, "x-environment").get("name", server.get("url"))): (("servers", n), server)
        for n, server in enumerate(entries(document, "servers"))
        if isinstance(server, dict)
    }


def _environment(place: Place, name: str, old: Any, new: Any) -> Iterator[Change]:
    was, now = str(old.get("url")), str(new.get("url"))
    if was.startswith("https:") and not now.startswith("https:"):
        yield security((*place, "url"), "manifests", f"{name} without TLS", "tokens are readable")
    elif was != now:
        yield breaking(
            (*place, "url"), "manifests", f"{name} at another URL", "clients call the old"
        )
    before, after = table(old, "x-environment"), table(new, "x-environment")
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) == after.get(key):
            continue
        here = (*place, "x-environment", key)
        if key == "exposure" and before.get(key) == "none":
            yield security(here, "manifests", f"{name} is exposed", "the outside reaches it")
        elif key == "docs" and after.get(key):
            yield security(here, "manifests", f"{name} shows its docs", "anyone may read them")
        elif key == "postgres" and _wider(before.get(key), after.get(key)):
            yield security(
                here, "manifests", f"{name} may reach more networks", "so may an intruder"
            )
        elif key in ("exposure", "namespace", "cluster"):
            yield breaking(here, "manifests", f"another {key} of {name}", "its release moves")
        else:
            yield safe(
                here,
                "manifests",
                f"another {key} of {name}",
                "the manifests follow",
                key not in after,
            )


def _wider(old: Any, new: Any) -> bool:
    return not set(entries(new, "networks")) <= set(entries(old, "networks"))


def _root(pair: Pair) -> Iterator[Change]:
    was, now = (table(d, "info").get("version") for d in (pair.old, pair.new))
    if was != now:
        yield safe(("info", "version"), "clients", f"version {was} is {now} now", "it says so")
