"""An operation of the contract, compiled once: limit, parameters, body, handler, response."""

from collections.abc import Callable, Mapping
from typing import Any

from connexion.middleware.abstract import ROUTING_CONTEXT, SpecMiddleware
from connexion.spec import Specification
from starlette.types import ASGIApp, Receive, Scope, Send

from openapi.contract import Operation as Declared
from service.http.problems import FieldError, invalid_request
from service.http.responses import JSON_TYPE, Headers, send_response
from service.http.uri import parse_query
from service.operations import idempotency
from service.operations.bodies import body_reader
from service.operations.idempotency import IdempotentInvocation
from service.operations.invocation import HandlerError, Invocation, Services
from service.operations.parameters import (
    Parameter,
    UnsupportedParameter,
    compile_parameter,
    read_parameter,
    unknown_parameters,
)


class Operation:
    """One operation; everything that does not depend on the request is computed here."""

    def __init__(self, handler: Callable[..., Any], declared: Declared, services: Services) -> None:
        """Raise `HandlerError` when the handler or a parameter is not supported."""
        self._limit = services.rate_limits.for_operation(declared)
        parameters = [_compile(declared, parameter) for parameter in declared.parameters]
        self._path = [p for p in parameters if p.where == "path"]
        self._query = [p for p in parameters if p.where == "query"]
        self._headers = [(p, p.name.encode()) for p in parameters if p.where == "header"]
        self._takes_parameters = bool(parameters)
        self._query_names = frozenset(p.name for p in self._query)
        self._read_body = (
            body_reader(declared.body, services.body_budget) if declared.body else None
        )
        arguments = {p.argument for p in parameters} | ({"body"} if declared.body else set())
        takes_key = idempotency.ARGUMENT in arguments
        arguments.discard(idempotency.ARGUMENT)  # handlers do not see it
        invocation = Invocation(handler, declared, arguments, services)
        self._invoke = IdempotentInvocation(invocation) if takes_key else invocation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        context = scope["covenant"]
        principal = context.principal
        if self._limit:
            headers: Headers = []
            context.extra_headers = headers
            await self._limit(context.client, principal, headers)
        arguments: dict[str, Any] = {}
        errors: list[FieldError] = []
        if self._takes_parameters or scope["query_string"]:
            arguments, errors = self._read_parameters(scope)
        if self._read_body:
            arguments["body"], body_errors = await self._read_body(scope["headers"], receive)
            errors += body_errors
        if errors:
            raise invalid_request(errors)
        status, content, fields = await self._invoke(arguments, principal)
        await send_response(send, status, content, fields, JSON_TYPE if content else None)

    def _read_parameters(self, scope: Scope) -> tuple[dict[str, Any], list[FieldError]]:
        arguments: dict[str, Any] = {}
        errors: list[FieldError] = []
        for parameter in self._path:
            values = [scope["path_params"][parameter.name]]
            read_parameter(parameter, values, arguments, errors)
        pairs = parse_query(scope["query_string"])
        if pairs is None:
            return arguments, [*errors, FieldError("query", "", "is not UTF-8")]
        if pairs:
            errors += unknown_parameters((name for name, _ in pairs), self._query_names)
        for parameter in self._query:
            values = [value for name, value in pairs if name == parameter.name]
            read_parameter(parameter, values, arguments, errors)
        for parameter, header in self._headers:
            values = [v.decode("latin-1") for name, v in scope["headers"] if name == header]
            read_parameter(parameter, values, arguments, errors)
        return arguments, errors


class OperationMiddleware(SpecMiddleware):
    """The innermost middleware: it responds to every HTTP request itself."""

    def __init__(self, app: ASGIApp, operations: Mapping[str, Operation]) -> None:
        self._app = app
        self._operations = operations

    def add_api(self, specification: Specification, **_: Any) -> None:
        """Do nothing: the operations were compiled from the same contract."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        id = scope["extensions"][ROUTING_CONTEXT]["operation_id"]
        await self._operations[id](scope, receive, send)


def _compile(declared: Declared, parameter: dict[str, Any]) -> Parameter:
    try:
        return compile_parameter(parameter)
    except UnsupportedParameter as error:
        raise HandlerError(f"{declared.id}: parameter {parameter['name']}: {error}") from None
