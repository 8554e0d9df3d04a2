"""The outermost middleware: request id, limits, common headers, problems, the log line."""

import asyncio
import random
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import structlog
from connexion.middleware.abstract import ROUTING_CONTEXT
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from db.errors import Reason, Unavailable
from service.http import problems
from service.http.client_address import client_address
from service.http.cors import Cors
from service.http.problems import FieldError, Problem, invalid_request
from service.http.responses import PROBLEM_TYPE, Headers, send_response
from service.identity.tokens import Principal
from service.settings import Network
from service.status import Status
from service.telemetry.logs import request_logger
from service.telemetry.metrics import Metrics

MAX_HEADER_FIELDS = 100
MAX_HEADER_BYTES = 16_384
# How long to keep reading after an error: otherwise a client that is still sending would not see
# the response.
LINGER_SECONDS = 1.0
CLIENT_CLOSED_REQUEST = 499  # nginx's status for a client that disconnected
INSPECTED = frozenset(
    (b"host", b"content-length", b"transfer-encoding", b"origin", b"x-request-id")
)
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")

SECURITY_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
]
CONTENT_SECURITY_POLICY = b"default-src 'none'; frame-ancestors 'none'"
InspectedHeaders = dict[bytes, list[bytes]]

log = structlog.get_logger("covenant.request")


@dataclass(slots=True)
class RequestContext:
    """The state of one request, in `scope["covenant"]`."""

    request_id: str
    client: str
    method: str
    started: float
    seconds: float = 0
    status: int = 0
    principal: Principal | None = None
    trace_id: str | None = None
    # Swagger UI has a policy of its own.
    content_security_policy: bytes = CONTENT_SECURITY_POLICY
    unavailable_reason: str | None = None
    # Headers of the response, which a problem gets as well.
    extra_headers: Sequence[tuple[bytes, bytes]] = ()


class RequestMiddleware:
    """Turns every error into a problem, and logs and counts every request."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        status: Status,
        trusted_proxies: Sequence[Network],
        cors: Cors,
        metrics: Metrics,
    ) -> None:
        self._app = app
        self._status = status
        self._metrics = metrics
        self._trusted_proxies = tuple(trusted_proxies)
        self._cors = cors
        self._log_request = request_logger()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers = _inspected(scope["headers"])
        context = RequestContext(
            _request_id(headers),
            client_address(scope, self._trusted_proxies),
            scope["method"],
            time.perf_counter(),
        )
        if context.method == "HEAD":
            scope = {**scope, "method": "GET"}  # the server has its own scope, and omits the body
        scope["covenant"] = context
        scope["extensions"] = {}
        send = self._with_common_headers(send, context, headers)
        self._metrics.in_flight += 1
        try:
            check_length_and_host(headers)
            check_framing(headers, scope["http_version"])
            if self._cors.is_enabled and self._cors.is_preflight(scope):
                await send_response(send, 204, b"", self._cors.preflight_headers)
            else:
                await self._app(scope, receive, send)
        except ConnectionResetError:
            context.status = context.status or CLIENT_CLOSED_REQUEST
        except asyncio.CancelledError:
            # The server cancels requests that are still in flight after the grace period.
            stopping = Unavailable(Reason.NOT_READY, "the service is stopping")
            await _respond(stopping, context, receive, send)
        except Exception as error:
            self._metrics.record_error(error)
            if isinstance(error, Unavailable):
                context.unavailable_reason = error.label
            await _respond(error, context, receive, send)
        finally:
            self._metrics.in_flight -= 1
            self._log(scope, context)

    def _with_common_headers(
        self, send: Send, context: RequestContext, request_headers: InspectedHeaders
    ) -> Send:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                context.status = message["status"]
                context.seconds = time.perf_counter() - context.started
                headers = message["headers"]
                headers += SECURITY_HEADERS
                headers.append((b"content-security-policy", context.content_security_policy))
                headers.append((b"x-request-id", context.request_id.encode()))
                headers += context.extra_headers
                if self._cors.is_enabled:
                    headers += self._cors.headers(request_headers.get(b"origin", [b""])[0])
                if self._status.stopping:
                    headers.append((b"connection", b"close"))
            await send(message)

        return send_with_headers

    def _log(self, scope: Scope, context: RequestContext) -> None:
        seconds = context.seconds or time.perf_counter() - context.started
        line: dict[str, Any] = {"request_id": context.request_id}
        extensions, operation = scope["extensions"], None
        if ROUTING_CONTEXT in extensions:
            line["operation"] = operation = extensions[ROUTING_CONTEXT]["operation_id"]
        line["method"] = context.method
        line["status"] = context.status
        line["duration_ms"] = round(seconds * 1000, 2)
        if context.principal:
            line["tenant"] = context.principal.org_id
        if context.unavailable_reason:
            line["reason"] = context.unavailable_reason
        if context.trace_id:
            line["trace_id"] = context.trace_id
        self._metrics.record_response(operation, context.method, context.status, seconds)
        self._log_request(line, scope["path"])


def check_length_and_host(headers: InspectedHeaders) -> None:
    """Reject a Content-Length that is too large (RFC 9110 section 15.5.14), and a missing Host.

    `HttpProtocol` has already limited the header fields.
    """
    for length in headers.get(b"content-length", ()):
        if int(length) > problems.MAX_BODY_BYTES:
            raise problems.body_too_large()
    if len(headers.get(b"host", ())) != 1:
        raise invalid_request([FieldError("header", "/host", "must be sent exactly once")])


def check_framing(headers: InspectedHeaders, http_version: str) -> None:
    """Reject transfer codings that proxies may interpret differently (RFC 9112 section 6.1)."""
    codings = [value.lower() for value in headers.get(b"transfer-encoding", ())]
    if codings and (codings != [b"chunked"] or http_version == "1.0"):
        problem = invalid_request([FieldError("header", "/transfer-encoding", "must be chunked")])
        problem.headers["Connection"] = "close"
        raise problem


def headers_too_large() -> Problem:
    """Return the 431 problem (RFC 6585 section 5)."""
    detail = (
        "The request line and header fields must not exceed"
        f" {MAX_HEADER_BYTES} bytes and {MAX_HEADER_FIELDS} fields"
    )
    return Problem("headers-too-large", detail, headers={"Connection": "close"})


async def _respond(error: Exception, context: RequestContext, receive: Receive, send: Send) -> None:
    problem = problems.from_error(error)
    if problem.code == "internal-error":
        log.error("request_failed", request_id=context.request_id, exc_info=error)
    if context.status:
        return  # the response has already started
    body = problems.to_json(problem, context.request_id)
    lingers = "Connection" in problem.headers and problem.status != 408
    await send_response(
        send, problem.status, body, problem.headers, PROBLEM_TYPE, more_body=lingers
    )
    if lingers:
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                while (await receive()).get("more_body"):
                    pass
        await send({"type": "http.response.body", "body": b""})


def _inspected(headers: Headers) -> InspectedHeaders:
    """Return the header fields that this middleware looks at, in one pass."""
    inspected: InspectedHeaders = {}
    for name, value in headers:
        if name in INSPECTED:
            inspected.setdefault(name, []).append(value)
    return inspected


def _request_id(headers: InspectedHeaders) -> str:
    """Return the client's id if it is well-formed, or a new one: unique, not secret."""
    for value in headers.get(b"x-request-id", ()):
        if _REQUEST_ID.fullmatch(value):
            return value.decode()
    return f"{random.getrandbits(64):016x}"
