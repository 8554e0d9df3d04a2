"""Changes of who may call an operation: security schemes, and what operations require of them."""

from collections.abc import Iterator, Mapping
from typing import Any

from dev.breaking.change import (
    Change,
    Comparison,
    Concern,
    as_number,
    breaking,
    join_values,
    security_breaking,
)
from openapi.documents import NodePath, list_at, mapping_at


def requirements_of(document: Any, operation: Mapping[str, Any]) -> list[Any]:
    """Return the security requirements of an operation; none if anyone may call it.

    Its own replace the contract's; an empty one among them makes all optional (OpenAPI 3.0.3,
    Operation Object).
    """
    owner = operation if "security" in operation else document
    requirements = list_at(owner, "security")
    return requirements if all(requirements) else []


def requirement_changes(path: NodePath, old: list[Any], new: list[Any]) -> Iterator[Change]:
    """Yield the changes between the security requirements of one operation."""
    here = (*path, "security")
    schemes_before, schemes_after = (
        sorted({name for requirement in side for name in mapping_at(requirement)})
        for side in (old, new)
    )
    if old and not new:
        reason = "anyone can call the operation without a token"
        yield security_breaking(here, "authentication removed", reason)
    elif new and not old:
        yield breaking(here, "authentication is now required", "callers without a token get 401")
    elif schemes_before != schemes_after:
        summary = (
            f"security scheme changed from {join_values(schemes_before)}"
            f" to {join_values(schemes_after)}"
        )
        yield security_breaking(here, summary, "other credentials grant access")
    else:
        before, after = _scopes(old), _scopes(new)
        if removed := sorted(before - after):
            summary = f"scope {join_values(removed)} is no longer required"
            yield security_breaking(here, summary, "more tokens grant access")
        if added := sorted(after - before):
            summary = f"scope {join_values(added)} is now required"
            yield breaking(here, summary, "tokens without it are rejected")


def _scopes(requirements: list[Any]) -> set[str]:
    return {
        str(scope)
        for requirement in requirements
        for scheme in mapping_at(requirement)
        for scope in list_at(requirement, scheme)
    }


def scheme_changes(comparison: Comparison) -> Iterator[Change]:
    """Yield the changes between the security schemes of two contracts."""
    old = mapping_at(comparison.old, "components", "securitySchemes")
    new = mapping_at(comparison.new, "components", "securitySchemes")
    for name in old:
        path: NodePath = ("components", "securitySchemes", name)
        before, after = mapping_at(old, name), mapping_at(new, name)
        if not after:
            reason = "it no longer protects any operation"
            yield security_breaking(
                path,
                f"security scheme `{name}` removed",
                reason,
                concern=Concern.POLICIES,
                removed=True,
            )
            continue
        if any(before.get(key) != after.get(key) for key in ("type", "scheme", "in", "name")):
            reason = "other credentials grant access"
            yield security_breaking(path, f"security scheme `{name}` changed", reason)
        if before.get("x-tenant") != after.get("x-tenant"):
            yield _tenant_change((*path, "x-tenant"), removed="x-tenant" not in after)
        yield from _token_changes(
            (*path, "x-token"), mapping_at(before, "x-token"), mapping_at(after, "x-token")
        )


def _tenant_change(path: NodePath, *, removed: bool) -> Change:
    if removed:
        summary, reason = "x-tenant removed", "policies are no longer bound to the token's tenant"
    else:
        summary, reason = "x-tenant changed", "policies are bound to another claim or setting"
    return security_breaking(path, summary, reason, concern=Concern.POLICIES, removed=removed)


def _token_changes(
    path: NodePath, old: Mapping[str, Any], new: Mapping[str, Any]
) -> Iterator[Change]:
    if old and not new:
        reason = "the contract no longer says which claims a token must have"
        yield security_breaking(path, "x-token removed", reason, removed=True)
        return
    for key in ("issuer", "audience"):
        if old.get(key) != new.get(key):
            summary = f"token {key} changed from `{old.get(key)}` to `{new.get(key)}`"
            yield breaking((*path, key), summary, "tokens already issued are rejected")
    before, after = (as_number(side.get("lifetime")) or 0 for side in (old, new))
    here = (*path, "lifetime")
    change = f"from {before:g} to {after:g} seconds"
    if after > before:
        reason = "stolen tokens stay valid longer"
        yield security_breaking(here, f"token lifetime extended {change}", reason)
    elif after < before:
        yield breaking(here, f"token lifetime shortened {change}", "clients get 401 earlier")
