"""What changes between two schemas, for who sends such a value or is answered with one."""

from collections.abc import Iterator, Mapping
from typing import Any

from dev.breaking.change import Change, Pair, breaking, safe, security
from openapi.documents import NodePath, list_at, mapping_at, resolve

UPPER = ("maxLength", "maximum", "maxItems", "maxProperties")
LOWER = ("minLength", "minimum", "minItems", "minProperties")
Shared = dict[tuple[str, bool], None]


def schema_changes(
    place: NodePath, old: Any, new: Any, sent: bool, pair: Pair, shared: Shared
) -> Iterator[Change]:
    """Yield the changes of a schema; `sent` is true for what clients send.

    A `$ref` that both name is put into `shared`.
    """
    ref = mapping_at(new).get("$ref")
    if isinstance(ref, str) and ref == mapping_at(old).get("$ref"):
        shared[ref, sent] = None
        return
    was, now = resolve(pair.old, old), resolve(pair.new, new)
    if was.get("type") != now.get("type"):
        what = f"type {was.get('type')} is {now.get('type')} now"
        yield breaking(place, "clients", what, "values of the old type do not fit")
        return
    yield from _bounds(place, was, now, sent)
    yield from _forms(place, was, now, sent)
    yield from _tenant(place, was, now)
    yield from _openness(place, was, now, sent)
    yield from _properties(place, was, now, sent, pair, shared)
    if "items" in was and "items" in now:
        here = (*place, "items")
        yield from schema_changes(here, was["items"], now["items"], sent, pair, shared)
    for key in ("allOf", "anyOf", "oneOf"):
        yield from _branches(place, key, was, now, sent, pair, shared)


def _bounds(place: NodePath, old: Any, new: Any, sent: bool) -> Iterator[Change]:
    for key in UPPER:
        was, now = old.get(key), new.get(key)
        here = (*place, key)
        if was == now:
            continue
        if now is None or (was is not None and now > was):
            what = f"{key} {was} is {'gone' if now is None else now}"
            if sent:
                yield security(
                    here, "clients", what, "a limit is raised: more can be sent", now is None
                )
            else:
                yield breaking(
                    here, "clients", what, "answers may be larger than clients take", now is None
                )
        elif sent:
            yield breaking(here, "clients", f"{key} {was} is {now}", "what fitted gets 400")
        else:
            yield safe(here, "clients", f"{key} {was} is {now}", "answers get no larger")
    for key in LOWER:
        was, now = old.get(key), new.get(key)
        here = (*place, key)
        if was == now:
            continue
        tighter = was is None or (now is not None and now > was)
        if tighter == sent:
            reason = "what fitted gets 400" if sent else "answers may be smaller than clients take"
            yield breaking(here, "clients", f"{key} {was} is {now}", reason, now is None)
        else:
            yield safe(here, "clients", f"{key} {was} is {now}", "what fitted fits", now is None)


def _forms(place: NodePath, old: Any, new: Any, sent: bool) -> Iterator[Change]:
    for key in ("pattern", "format"):
        was, now = old.get(key), new.get(key)
        here = (*place, key)
        if was != now and now is None and sent:
            yield security(here, "clients", f"{key} is gone", "anything else can be sent", True)
        elif was != now and (sent or was is not None):
            yield breaking(here, "clients", f"another {key}", "values may not fit", now is None)
        elif was != now:
            yield safe(here, "clients", f"a {key}", "answers get narrower")
    if "enum" in old or "enum" in new:
        yield from _enum((*place, "enum"), old.get("enum"), new.get("enum"), sent)
    if bool(old.get("nullable")) != bool(new.get("nullable")):
        here = (*place, "nullable")
        if bool(new.get("nullable")) == sent:
            yield safe(here, "clients", "null changes", "what fitted fits", "nullable" not in new)
        else:
            yield breaking(
                here, "clients", "null changes", "null was, or is, unknown", "nullable" not in new
            )
    if old.get("default") != new.get("default") and sent:
        here = (*place, "default")
        yield breaking(
            here,
            "clients",
            "another default",
            "requests without it mean something else",
            "default" not in new,
        )


def _enum(here: NodePath, old: Any, new: Any, sent: bool) -> Iterator[Change]:
    if old == new:
        return
    if new is None:
        if sent:
            yield security(here, "clients", "enum is gone", "anything else can be sent", True)
        else:
            yield breaking(here, "clients", "enum is gone", "clients do not know the rest", True)
        return
    if old is None:
        if sent:
            yield breaking(here, "clients", "an enum", "other values get 400")
        else:
            yield safe(here, "clients", "an enum", "answers get narrower")
        return
    gone, more = [v for v in old if v not in new], [v for v in new if v not in old]
    if gone:
        kind = breaking if sent else safe
        yield kind(
            here, "clients", f"{gone[0]} is gone", "clients may send it" if sent else "never seen"
        )
    if more:
        kind = safe if sent else breaking
        yield kind(
            here, "clients", f"{more[0]} is new", "may be sent" if sent else "clients know it not"
        )


def _tenant(place: NodePath, old: Any, new: Any) -> Iterator[Change]:
    was, now = old.get("x-tenant"), new.get("x-tenant")
    if was is not None and was != now:
        here = (*place, "x-tenant")
        yield security(
            here,
            "policies",
            "x-tenant is lost or another",
            "no policy confines its rows",
            now is None,
        )
    if old.get("x-table") != new.get("x-table"):
        here, gone = (*place, "x-table"), "x-table" not in new
        if gone:
            yield breaking(
                here, "policies", "x-table is gone", "its table, policy and rows go", True
            )
        else:
            yield safe(here, "policies", "another x-table", "a migration follows")


def _openness(place: NodePath, old: Any, new: Any, sent: bool) -> Iterator[Change]:
    was, now = old.get("additionalProperties", True), new.get("additionalProperties", True)
    here = (*place, "additionalProperties")
    if was is False and now is not False:
        reason = "undeclared properties can be sent" if sent else "undeclared columns can show"
        yield security(
            here, "clients", "the schema is opened", reason, "additionalProperties" not in new
        )
    elif was is not False and now is False:
        yield breaking(here, "clients", "the schema is closed", "other properties get 400")
    for key, whom in (("readOnly", True), ("writeOnly", False)):
        if sent is whom and bool(old.get(key)) != bool(new.get(key)):
            if old.get(key):
                reason = "clients may set it now" if sent else "answers show it now"
                yield security((*place, key), "clients", f"no longer {key}", reason, key not in new)
            else:
                yield breaking((*place, key), "clients", f"{key} now", "it is refused or missing")


def _properties(
    place: NodePath, old: Any, new: Any, sent: bool, pair: Pair, shared: Shared
) -> Iterator[Change]:
    was, now = mapping_at(old, "properties"), mapping_at(new, "properties")
    needed, need = list_at(old, "required"), list_at(new, "required")
    for name in was.keys() - now.keys():
        reason = "requests that send it get 400" if sent else "clients read it"
        yield breaking((*place, "properties", name), "clients", f"{name} is gone", reason, True)
    for name in now.keys() - was.keys():
        here = (*place, "properties", name)
        if sent and name in need and not resolve(pair.new, now[name]).get("readOnly"):
            yield breaking(
                here, "clients", f"a new {name} that is required", "requests without get 400"
            )
        else:
            yield safe(here, "clients", f"a new {name}", "it may be left out, or overlooked")
    for name in was.keys() & now.keys():
        here = (*place, "properties", name)
        if (name in need) != (name in needed):
            tighter = name in need
            if tighter == sent:
                what = f"{name} is {'required' if tighter else 'optional'} now"
                yield breaking(
                    here, "clients", what, "clients leave it out" if sent else "clients read it"
                )
            else:
                what = f"{name} is {'required' if tighter else 'optional'} now"
                yield safe(here, "clients", what, "what fitted fits")
        yield from schema_changes(here, was[name], now[name], sent, pair, shared)


def _branches(
    place: NodePath, key: str, old: Any, new: Any, sent: bool, pair: Pair, shared: Shared
) -> Iterator[Change]:
    was, now = list_at(old, key), list_at(new, key)
    here = (*place, key)
    if len(now) < len(was):
        if key == "allOf" and sent:
            yield security(here, "clients", "a part of allOf is gone", "more can be sent", not now)
        else:
            yield breaking(
                here, "clients", f"a branch of {key} is gone", "values do not fit", not now
            )
    elif len(now) > len(was):
        widened = key != "allOf"
        if widened == sent:
            yield safe(here, "clients", f"a new branch of {key}", "what fitted fits")
        else:
            yield breaking(here, "clients", f"a new branch of {key}", "values may not fit")
    pairs: Mapping[int, tuple[Any, Any]] = dict(enumerate(zip(was, now, strict=False)))
    for n, (one, other) in pairs.items():
        yield from schema_changes((*here, n), one, other, sent, pair, shared)
