"""What changes in who may call: security schemes, and what operations require of them."""

from collections.abc import Iterator, Mapping
from typing import Any

from dev.breaking.change import Change, Pair, breaking, security
from openapi.documents import NodePath, mapping_at


def required_of(document: Any, operation: Any) -> list[Any]:
    """Return what an operation requires, its own or the contract's; nothing for a public one."""
    found = operation.get("security", document.get("security", []))
    return [entry for entry in found if entry] if isinstance(found, list) else []


def requirements(place: NodePath, old: list[Any], new: list[Any]) -> Iterator[Change]:
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


def schemes(pair: Pair) -> Iterator[Change]:
    old = mapping_at(pair.old, "components", "securitySchemes")
    new = mapping_at(pair.new, "components", "securitySchemes")
    for name, was in old.items():
        here: NodePath = ("components", "securitySchemes", name)
        now = mapping_at(new.get(name))
        if not now:
            yield security(here, "policies", f"security scheme {name} is gone", "it guards", True)
            continue
        if any(was.get(key) != now.get(key) for key in ("type", "scheme", "in", "name")):
            yield security(here, "clients", f"scheme {name} is another", "other tokens open it")
        if was.get("x-tenant") != now.get("x-tenant"):
            reason = "the policies are bound to another tenant, or to none"
            yield security((*here, "x-tenant"), "policies", "x-tenant is lost or another", reason)
        yield from _token(
            (*here, "x-token"), mapping_at(was, "x-token"), mapping_at(now, "x-token")
        )


def _token(here: NodePath, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
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
