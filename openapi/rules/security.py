"""The rules of who may call what."""

from collections.abc import Iterator
from typing import Any

from openapi.documents import NodePath, SpecObject, each_operation, mapping_at, resolve
from openapi.rules.messages import Violation, suggest


def security(document: Any, objects: list[SpecObject]) -> Iterator[Violation]:
    """Every operation names one requirement, or says `security: []`."""
    everywhere = document.get("security")
    if isinstance(everywhere, list):
        yield from _requirements(document, ("security",), everywhere)
    secured = False
    for place, _, operation in each_operation(document):
        own = operation.get("security", everywhere)
        secured = secured or bool(own)
        if "security" not in operation and not everywhere:
            yield place, "has no security and is not declared public: write `security: []`"
        elif "security" in operation and isinstance(own, list):
            yield from _requirements(document, (*place, "security"), own)
    tenants = 0
    for place, kind, scheme in objects:
        if kind == "security_scheme" and scheme.get("scheme") == "bearer":
            tenants += "x-token" in scheme and "x-tenant" in scheme
        elif kind == "security_scheme":
            for key in scheme.keys() & {"x-token", "x-tenant"}:
                yield (*place, key), "belongs to a scheme of type http, scheme bearer"
    if secured and tenants != 1:
        yield (
            ("components", "securitySchemes"),
            f"one bearer scheme carries x-token and x-tenant, not {tenants}",
        )


def _requirements(document: Any, place: NodePath, required: list[Any]) -> Iterator[Violation]:
    schemes = mapping_at(document, "components", "securitySchemes")
    if len(required) > 1:
        yield place, "lists alternatives: a token that one refuses could pass by another"
        return
    for name, scopes in (pair for entry in required for pair in mapping_at(entry).items()):
        if name not in schemes:
            yield (*place, 0, name), f"no security scheme `{name}`{suggest(name, schemes)}"
        elif scopes and resolve(document, schemes[name]).get("type") in ("http", "apiKey"):
            yield (*place, 0, name), "only OAuth 2 and OpenID Connect know scopes: write []"
    if required == [{}]:
        yield place, "`{}` admits anyone: write `security: []`"
