"""What changes between the operations of two contracts, for who calls them."""

from collections.abc import Iterator, Mapping
from typing import Any

from dev.breaking.change import Change, Pair, breaking, resolve_ref, safe, security
from dev.breaking.extensions import inherited
from dev.breaking.schemas import Shared, schema_changes
from dev.breaking.security import required_of, requirements
from openapi.documents import NodePath, each_operation, list_at, locate, mapping_at, resolve


def operations(pair: Pair, shared: Shared) -> Iterator[Change]:
    old, new = _by_place(pair.old), _by_place(pair.new)
    for place in old.keys() - new.keys():
        yield breaking(
            place, "clients", "the operation is gone", "its callers get 404 or 405", True
        )
    for place in new.keys() - old.keys():
        if required_of(pair.new, new[place]):
            yield safe(place, "clients", "a new operation", "nobody calls it yet")
        else:
            yield security(
                place, "clients", "a new public operation", "anyone may call it without a token"
            )
    for place in old.keys() & new.keys():
        yield from _operation(place, pair, old[place], new[place], shared)
    yield from inherited((), pair)
    for path in mapping_at(pair.old, "paths").keys() & mapping_at(pair.new, "paths").keys():
        yield from inherited(("paths", path), pair)


def _by_place(document: Any) -> dict[NodePath, dict[str, Any]]:
    return {place: operation for place, _, operation in each_operation(document)}


def _operation(place: NodePath, pair: Pair, old: Any, new: Any, shared: Shared) -> Iterator[Change]:
    if old.get("operationId") != new.get("operationId"):
        yield breaking(
            (*place, "operationId"), "clients", "another operationId", "generated clients rename it"
        )
    yield from requirements(place, required_of(pair.old, old), required_of(pair.new, new))
    yield from _parameters(place, pair, shared)
    yield from _body(place, pair, old, new, shared)
    yield from _responses(place, pair, old, new, shared)
    yield from inherited(place, pair)


def _parameters(place: NodePath, pair: Pair, shared: Shared) -> Iterator[Change]:
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
        was, now = before.get("schema", {}), parameter.get("schema", {})
        yield from schema_changes((*where, "schema"), was, now, True, pair, shared)


def _declared(
    document: Any, place: NodePath
) -> dict[tuple[str, str], tuple[NodePath, dict[str, Any]]]:
    """Return the parameters by (name, in), each where it stands once its `$ref` is followed."""
    _, path, method = place
    item = mapping_at(document, "paths", str(path))
    found = {}
    for owner, node in ((place[:-1], item), (place, mapping_at(item, str(method)))):
        for n, entry in enumerate(list_at(node, "parameters")):
            where: NodePath = (*owner, "parameters", n)
            ref = mapping_at(entry).get("$ref")
            if isinstance(ref, str):
                where = locate(document, ref)[0] if resolve_ref(document, ref) else where
            parameter = resolve(document, entry)
            found[str(parameter.get("name")), str(parameter.get("in"))] = where, parameter
    return found


def _body(place: NodePath, pair: Pair, old: Any, new: Any, shared: Shared) -> Iterator[Change]:
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


def _responses(place: NodePath, pair: Pair, old: Any, new: Any, shared: Shared) -> Iterator[Change]:
    before, after = mapping_at(old, "responses"), mapping_at(new, "responses")
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
        for name in mapping_at(was, "headers").keys() - mapping_at(now, "headers").keys():
            yield breaking(
                (*here, code, "headers", name),
                "clients",
                f"header {name} is gone",
                "clients may read it",
                True,
            )
        yield from _content((*here, code), pair, was, now, False, shared)


def _content(
    here: NodePath,
    pair: Pair,
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    sent: bool,
    shared: Shared,
) -> Iterator[Change]:
    before, after = mapping_at(old, "content"), mapping_at(new, "content")
    for kind in before.keys() - after.keys():
        where = (*here, "content", kind)
        yield breaking(where, "clients", f"{kind} is gone", "clients send or read it", True)
    for kind in after.keys() - before.keys():
        yield safe((*here, "content", kind), "clients", f"{kind} too", "it is chosen by clients")
    for kind in before.keys() & after.keys():
        was, now = (
            mapping_at(before[kind]).get("schema", {}),
            mapping_at(after[kind]).get("schema", {}),
        )
        where = (*here, "content", kind, "schema")
        yield from schema_changes(where, was, now, sent, pair, shared)
