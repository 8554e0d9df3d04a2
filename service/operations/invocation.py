"""Calls a handler: with the arguments, dependencies and session that its signature names."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from db import tenancy
from db.connections.database import Database
from db.tenancy import Session
from openapi.contract import Contract
from openapi.contract import Operation as Declared
from service.http.responses import JSON_TYPE
from service.identity.tokens import Principal
from service.limits.rate_limits import RateLimits
from service.operations.bodies import BodyBudget
from service.operations.validation import Validate, compile_schema

# What a handler's signature may name besides the operation's parameters and dependencies.
SESSIONS = ("tenant", "subject", "anonymous")
PRINCIPAL = "principal"

Response = tuple[int, bytes, dict[str, str]]  # status, content, headers


class HandlerError(Exception):
    """A handler does not fit its operation. The message is one line that names both."""


@dataclass(frozen=True)
class Services:
    """What all operations share; handlers name `dependencies` among their arguments."""

    database: Database
    contract: Contract
    rate_limits: RateLimits
    body_budget: BodyBudget
    validate_responses: bool
    dependencies: Mapping[str, Any]


class Invocation:
    """A handler, with everything about its call that does not depend on the request."""

    def __init__(
        self,
        handler: Callable[..., Any],
        declared: Declared,
        arguments: set[str],
        services: Services,
    ) -> None:
        """Check the handler's signature against `arguments`. Raises `HandlerError`."""
        self.id = declared.id
        names = _argument_names(handler, declared, arguments, services.dependencies)
        self.session = next((name for name in names if name in SESSIONS), None)
        self._handler = handler
        self._database = services.database
        self._read_only = declared.method == "get"
        self._statement_timeout: float | None = declared.extensions.get("x-timeout")
        self._dependencies = {
            name: services.dependencies[name]
            for name in names
            if name in services.dependencies and name not in arguments
        }
        self._takes_principal = PRINCIPAL in names
        self._status = next(int(code) for code in declared.responses if code.startswith("2"))
        self._validators = _response_validators(declared) if services.validate_responses else {}

    async def __call__(self, arguments: dict[str, Any], principal: Principal | None) -> Response:
        """Call the handler with a session of its own."""
        session = self.open_session(principal) if self.session else None
        return await self.call(arguments, principal, session)

    async def call(
        self, arguments: dict[str, Any], principal: Principal | None, session: Session | None
    ) -> Response:
        """Call the handler with `session`; the call adds to `arguments`, those of the request."""
        if self._dependencies:
            arguments.update(self._dependencies)
        if self._takes_principal:
            arguments[PRINCIPAL] = principal
        if self.session:
            arguments[self.session] = session
        result = await self._handler(**arguments)
        body, status, headers = _unpack(result, self._status)
        content = b"" if body is None else orjson.dumps(body)
        if self._validators:
            self._validate(status, content)
        return status, content, headers

    def open_session(self, principal: Principal | None) -> Session:
        """Return the session that the handler names, bound to the principal."""
        database, timeout = self._database, self._statement_timeout
        if self.session == "anonymous" or principal is None:
            return tenancy.anonymous_session(database, statement_timeout=timeout)
        read_only = self._read_only
        if self.session == "tenant":
            return tenancy.tenant_session(
                database, principal.org_id, read_only=read_only, statement_timeout=timeout
            )
        return tenancy.subject_session(
            database, principal.subject, read_only=read_only, statement_timeout=timeout
        )

    def _validate(self, status: int, content: bytes) -> None:
        """Validate a response against the contract (setting VALIDATE_RESPONSES, for tests)."""
        if status not in self._validators:
            raise HandlerError(f"{self.id} returned {status}, which the contract does not declare")
        validate = self._validators[status]
        errors = validate(orjson.loads(content)) if validate else []
        if errors or (validate is None and content):
            raise HandlerError(f"{self.id}: the {status} response violates the contract: {errors}")


def _argument_names(
    handler: Callable[..., Any],
    declared: Declared,
    arguments: set[str],
    dependencies: Mapping[str, Any],
) -> list[str]:
    """Return the names of a handler's arguments. Raises `HandlerError` if it cannot be called."""
    name = f"{handler.__module__}.{handler.__name__}"
    if reserved := arguments & {PRINCIPAL, *SESSIONS}:
        raise HandlerError(f"{declared.id}: the parameter name {reserved.pop()} is reserved")
    if not inspect.iscoroutinefunction(handler):
        raise HandlerError(f"{name} must be `async def`")
    parameters = inspect.signature(handler).parameters.values()
    names = [p.name for p in parameters if p.kind != inspect.Parameter.VAR_KEYWORD]
    available = arguments | {PRINCIPAL, *SESSIONS, *dependencies}
    if unknown := [argument for argument in names if argument not in available]:
        raise HandlerError(
            f"{name} takes {', '.join(unknown)}, which {declared.id} does not provide"
        )
    takes_any = len(names) < len(parameters)
    if not takes_any and (missing := arguments - set(names)):
        raise HandlerError(f"{name} does not take {', '.join(sorted(missing))} of {declared.id}")
    needs_token = {"tenant", "subject", PRINCIPAL} & set(names)
    if not declared.security and needs_token:
        raise HandlerError(f"{name} takes {needs_token.pop()}, but {declared.id} is public")
    return names


def _response_validators(declared: Declared) -> dict[int, Validate | None]:
    return {
        int(code): compile_schema(
            response["content"][JSON_TYPE]["schema"], "body", is_request=False
        )
        if JSON_TYPE in response.get("content", {})
        else None
        for code, response in declared.responses.items()
        if code.startswith("2") or code == "304"
    }


def _unpack(result: Any, status: int) -> tuple[Any, int, dict[str, str]]:
    """Return (body, status, headers) of a handler's result, which may omit status and headers."""
    if not isinstance(result, tuple):
        return result, status, {}
    body, status, *headers = result
    return body, status, headers[0] if headers else {}
