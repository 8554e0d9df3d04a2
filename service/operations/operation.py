"""An operation of the contract, compiled once: parameters, body, handler, answer."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from connexion.middleware.abstract import ROUTING_CONTEXT, SpecMiddleware
from connexion.spec import Specification
from starlette.types import ASGIApp, Receive, Scope, Send

from db import tenancy
from db.connections.database import Database
from db.queries.idempotency_keys import Response
from openapi.contract import Contract
from openapi.contract import Operation as Declared
from service.http.problems import FieldError, invalid_request
from service.http.responses import JSON_TYPE, send_response
from service.limits.rate_limits import RateLimits
from service.operations import bodies, idempotency, parameters
from service.operations.parameters import Parameter
from service.operations.validation import Validate, compile_schema

# What a handler may name among its arguments besides the contract's parameters.
SESSIONS = ("tenant", "subject", "nobody")
VAR_KEYWORD = inspect.Parameter.VAR_KEYWORD


class HandlerError(Exception):
    """A handler does not fit its operation: one line that names both."""


@dataclass(frozen=True)
class Services:
    """What the service owns and lends to its handlers, by the name of the argument."""

    database: Database
    contract: Contract
    limits: RateLimits
    room: bodies.BodyBudget
    validate_responses: bool
    lent: Mapping[str, Any]


class Operation:
    """One operation; everything that does not depend on the request is worked out here."""

    def __init__(self, handler: Callable[..., Any], declared: Declared, services: Services) -> None:
        self.id = declared.id
        self._handler = handler
        self._database = services.database
        self._read_only = declared.method == "get"
        self._timeout: float | None = declared.extensions.get("x-timeout")
        readers = [_parameter(declared, p) for p in declared.parameters]
        self._path = [p for p in readers if p.where == "path"]
        self._query = [p for p in readers if p.where == "query"]
        self._headers = [(p, p.name.encode()) for p in readers if p.where == "header"]
        self._takes_parameters = bool(readers)
        self._known = frozenset(p.name for p in self._query)
        self._read_body = (
            bodies.body_reader(declared.body, services.room) if declared.body else None
        )
        self._limit = services.limits.of(declared)
        self._status = next(int(code) for code in declared.responses if code.startswith("2"))
        self._checks = _response_checks(declared) if services.validate_responses else {}
        offered = {p.argument for p in readers} | ({"body"} if declared.body else set())
        keyed = idempotency.ARGUMENT in offered
        offered.discard(idempotency.ARGUMENT)  # that it is honoured is no handler's business
        wanted = _handler_arguments(handler, declared, offered, services)
        lent = [name for name in wanted if name in services.lent and name not in offered]
        self._lent = {name: services.lent[name] for name in lent}
        self._door = next((name for name in wanted if name in SESSIONS), None)
        self._takes_principal = "token_info" in wanted
        if keyed and self._door not in ("tenant", "subject"):
            raise HandlerError(f"{self.id} takes keys, so its handler asks for a tenant or subject")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        principal = scope["extensions"].get("connexion_context", {}).get("token_info")
        if self._limit:
            context = scope["covenant"]
            fields: bodies.Headers = []
            context.fields = fields
            await self._limit(context.client, principal, fields)
        arguments: dict[str, Any] = {}
        faults: list[FieldError] = []
        if self._takes_parameters or scope["query_string"]:
            arguments, faults = self._arguments(scope)
        if self._read_body:
            arguments["body"], found = await self._read_body(scope["headers"], receive)
            faults += found
        if faults:
            raise invalid_request(faults)
        key = arguments.pop(idempotency.ARGUMENT, None)
        if key is not None and principal is not None:
            status, content, headers = await self._once(key, arguments, principal)
        else:
            door = self._opened(principal) if self._door else None
            result = await self._handler(**self._lend(arguments, principal, door))
            status, content, headers = self._answer(result)
        await send_response(send, status, content, headers, JSON_TYPE if content else None)

    async def _once(
        self, sent: str, arguments: dict[str, Any], principal: dict[str, Any]
    ) -> Response:
        async def run(door: tenancy.Session) -> Response:
            result = await self._handler(**self._lend(dict(arguments), principal, door))
            return self._answer(result)

        key = idempotency.request_key(sent, self.id, arguments, principal, self._door or "")
        return await idempotency.run_once(self._opened(principal), key, run)

    def _lend(
        self,
        arguments: dict[str, Any],
        principal: dict[str, Any] | None,
        door: tenancy.Session | None,
    ) -> dict[str, Any]:
        """Add to the request's arguments what the service lends to the handler."""
        if self._lent:
            arguments.update(self._lent)
        if self._takes_principal:
            arguments["token_info"] = principal
        if self._door:
            arguments[self._door] = door
        return arguments

    def _answer(self, result: Any) -> Response:
        body, status, headers = _unpack(result, self._status)
        content = b"" if body is None else orjson.dumps(body)
        if self._checks:
            self._check(status, content)
        return status, content, headers

    def _arguments(self, scope: Scope) -> tuple[dict[str, Any], list[FieldError]]:
        arguments: dict[str, Any] = {}
        faults: list[FieldError] = []
        for parameter in self._path:
            values = [scope["path_params"][parameter.name]]
            parameters.read_parameter(parameter, values, arguments, faults)
        pairs = parameters.parse_query(scope["query_string"])
        if pairs is None:
            return arguments, [*faults, FieldError("query", "", "not UTF-8")]
        if pairs:
            faults += parameters.unknown_parameters((name for name, _ in pairs), self._known)
        for parameter in self._query:
            values = [value for name, value in pairs if name == parameter.name]
            parameters.read_parameter(parameter, values, arguments, faults)
        for parameter, sent in self._headers:
            values = [v.decode("latin-1") for name, v in scope["headers"] if name == sent]
            parameters.read_parameter(parameter, values, arguments, faults)
        return arguments, faults

    def _opened(self, principal: dict[str, Any] | None) -> tenancy.Session:
        if self._door == "nobody" or principal is None:
            return tenancy.anonymous_session(self._database, timeout=self._timeout)
        read_only, timeout = self._read_only, self._timeout
        if self._door == "tenant":
            org_id = principal["org_id"]
            return tenancy.tenant_session(
                self._database, org_id, read_only=read_only, timeout=timeout
            )
        subject = principal["sub"]
        return tenancy.subject_session(
            self._database, subject, read_only=read_only, timeout=timeout
        )

    def _check(self, status: int, content: bytes) -> None:
        """Hold an answer against the contract: for tests, where it costs nothing that counts."""
        if status not in self._checks:
            raise HandlerError(f"{self.id} answered {status}, which is not in the contract")
        check = self._checks[status]
        faults = check(orjson.loads(content)) if check else []
        if faults or (check is None and content):
            raise HandlerError(f"{self.id} answered {status} not as in the contract: {faults}")


class OperationMiddleware(SpecMiddleware):
    """The innermost middleware: it answers, and calls nothing further."""

    def __init__(self, app: ASGIApp, operations: Mapping[str, Operation]) -> None:
        self._app = app
        self._operations = operations

    def add_api(self, specification: Specification, **_: Any) -> None:
        """Nothing is left to do: the operations were compiled from the same contract."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        id = scope["extensions"][ROUTING_CONTEXT]["operation_id"]
        await self._operations[id](scope, receive, send)


def _parameter(declared: Declared, parameter: dict[str, Any]) -> Parameter:
    try:
        return parameters.compile_parameter(parameter)
    except parameters.UnsupportedParameter as error:
        raise HandlerError(f"{declared.id}: parameter {parameter['name']}: {error}") from None


def _handler_arguments(
    handler: Callable[..., Any], declared: Declared, offered: set[str], services: Services
) -> list[str]:
    """Return the names of a handler's arguments; refuse a handler that could never be called."""
    name = f"{handler.__module__}.{handler.__name__}"
    if taken := offered & {"token_info", *SESSIONS}:
        raise HandlerError(f"{declared.id} has a parameter {taken.pop()}, which names a door")
    if not inspect.iscoroutinefunction(handler):
        raise HandlerError(f"{name} must be `async def`")
    known = offered | {"token_info", *SESSIONS, *services.lent}
    wanted = [
        p.name for p in inspect.signature(handler).parameters.values() if p.kind != VAR_KEYWORD
    ]
    if unknown := [argument for argument in wanted if argument not in known]:
        raise HandlerError(
            f"{name} asks for {', '.join(unknown)}, which {declared.id} does not have"
        )
    takes_the_rest = len(wanted) < len(inspect.signature(handler).parameters)
    if not takes_the_rest and (missing := offered - set(wanted)):
        raise HandlerError(f"{name} does not take {', '.join(sorted(missing))} of {declared.id}")
    if not declared.security and (denied := {"tenant", "subject", "token_info"} & set(wanted)):
        raise HandlerError(f"{name} asks for {denied.pop()}, but {declared.id} is public")
    return wanted


def _response_checks(declared: Declared) -> dict[int, Validate | None]:
    return {
        int(code): compile_schema(response["content"][JSON_TYPE]["schema"], "body", sent=False)
        if JSON_TYPE in response.get("content", {})
        else None
        for code, response in declared.responses.items()
        if code.startswith("2") or code == "304"
    }


def _unpack(result: Any, status: int) -> tuple[Any, int, dict[str, str]]:
    """A handler returns a body, (body, status) or (body, status, headers)."""
    if not isinstance(result, tuple):
        return result, status, {}
    body, status, *headers = result
    return body, status, headers[0] if headers else {}
