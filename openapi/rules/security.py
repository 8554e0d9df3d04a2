"""The rules for security requirements and security schemes."""

from collections.abc import Iterator
from typing import Any

from openapi.documents import NodePath, each_operation, mapping_at, resolve
from openapi.object_tree import SpecObject
from openapi.rules.messages import Violation, suggest

PUBLIC_HINT = "write `security: []` to make the operation public"


def check_security(document: Any, objects: list[SpecObject]) -> Iterator[Violation]:
    """Every operation has one security requirement, or is public with `security: []`."""
    default = document.get("security")
    if isinstance(default, list):
        yield from _check_requirements(document, ("security",), default)
    is_secured = False
    for path, _, operation in each_operation(document):
        requirements = operation.get("security", default)
        is_secured = is_secured or bool(requirements)
        if "security" not in operation and not default:
            yield path, f"`security` is missing; {PUBLIC_HINT}"
        elif "security" in operation and isinstance(requirements, list):
            yield from _check_requirements(document, (*path, "security"), requirements)
    tenant_schemes = 0
    for path, kind, scheme in objects:
        if kind == "security_scheme" and scheme.get("scheme") == "bearer":
            tenant_schemes += "x-token" in scheme and "x-tenant" in scheme
        elif kind == "security_scheme":
            for key in scheme.keys() & {"x-token", "x-tenant"}:
                yield (*path, key), "is allowed only with `type: http` and `scheme: bearer`"
    if is_secured and tenant_schemes != 1:
        yield (
            ("components", "securitySchemes"),
            f"exactly one bearer scheme must have x-token and x-tenant, not {tenant_schemes}",
        )


def _check_requirements(
    document: Any, path: NodePath, requirements: list[Any]
) -> Iterator[Violation]:
    schemes = mapping_at(document, "components", "securitySchemes")
    if len(requirements) > 1:
        yield (
            path,
            "must list only one requirement: a token that one rejects could pass another",
        )
        return
    for name, scopes in (pair for entry in requirements for pair in mapping_at(entry).items()):
        if name not in schemes:
            reason = f"security scheme `{name}` does not exist{suggest(name, schemes)}"
            yield (*path, 0, name), reason
        elif scopes and resolve(document, schemes[name]).get("type") in ("http", "apiKey"):
            yield (*path, 0, name), "only OAuth 2 and OpenID Connect schemes have scopes; write []"
    if requirements == [{}]:
        yield path, f"`{{}}` allows anyone; {PUBLIC_HINT}"
