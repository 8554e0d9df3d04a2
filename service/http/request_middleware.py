"""Around every request: its id, its limits, what every answer carries, and the log line."""

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

from db.errors import Unavailable
from service.http import problems
from service.http.client_address import client_address
from service.http.problems import Problem
from service.http.responses import PROBLEM_TYPE, send_response
from service.operations import bodies
from service.settings import Network
from service.status import Status
from service.telemetry.logs import request_logger
from service.telemetry.metrics import Metrics, unavailable_reason

MAX_HEADER_FIELDS = 100
MAX_HEADER_BYTES = 16_384
# Seconds to read on after a refusal: closing on a client that still sends would cost it the answer.
LINGER_SECONDS = 1.0
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
CORS_METHODS = b"GET, HEAD, POST, PUT, PATCH, DELETE"
CORS_HEADERS = b"Authorization, Content-Type, Idempotency-Key, If-Match, X-Request-Id"
CORS_EXPOSED_HEADERS = (
    b"ETag, Idempotency-Replayed, Location, RateLimit, RateLimit-Policy, Retry-After, X-Request-Id"
)

InspectedHeaders = dict[bytes, list[bytes]]

log = structlog.get_logger("covenant.request")


@dataclass(slots=True)
class RequestContext:
    """What is known of a request besides its scope."""

    request_id: str
    client: str
    method: str
    started: float
    seconds: float = 0
    status: int = 0
    trace_id: str | None = None
    # A page for people has one of its own.
    content_security_policy: bytes = CONTENT_SECURITY_POLICY
    reason: str | None = None  # of a 503
    # Of the answer, whatever it will be.
    fields: Sequence[tuple[bytes, bytes]] = ()


class RequestMiddleware:
    """The outermost middleware. No error passes it: each becomes a problem."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        status: Status,
        trusted_proxies: Sequence[Network],
        cors_origins: Sequence[str],
        metrics: Metrics,
    ) -> None:
        self._app = app
        self._status = status
        self._metrics = metrics
        self._trusted = tuple(trusted_proxies)
        self._origins = frozenset(origin.encode() for origin in cors_origins)
        self._write_line = request_logger()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        sent = _inspected(scope["headers"])
        context = RequestContext(
            _request_id(sent),
            client_address(scope, self._trusted),
            scope["method"],
            time.perf_counter(),
        )
        if context.method == "HEAD":
            scope = {**scope, "method": "GET"}  # the server's own scope says what to leave out
        scope["covenant"] = context
        scope["extensions"] = {}
        send = self._dressed(send, context, sent)
        self._metrics.in_flight += 1
        try:
            check_bounds(sent)
            check_framing(sent, scope["http_version"])
            if not (self._origins and await self._preflight(scope, send)):
                await self._app(scope, receive, send)
        except ConnectionResetError:
            context.status = context.status or 499
        except asyncio.CancelledError:
            # Time is up: the server ends what is still in flight when it stops.
            await _respond(Unavailable("the service is stopping"), context, receive, send)
        except Exception as error:
            self._metrics.refused(error)
            context.reason = unavailable_reason(error)
            await _respond(error, context, receive, send)
        finally:
            self._metrics.in_flight -= 1
            self._log(scope, context)

    def _dressed(self, send: Send, context: RequestContext, sent: InspectedHeaders) -> Send:
        async def dressed(message: Message) -> None:
            if message["type"] == "http.response.start":
                context.status = message["status"]
                context.seconds = time.perf_counter() - context.started
                own = message["headers"]
                own += SECURITY_HEADERS
                own.append((b"content-security-policy", context.content_security_policy))
                own.append((b"x-request-id", context.request_id.encode()))
                own += context.fields
                if self._origins:
                    own += self._cors(sent)
                if self._status.stopping:
                    own.append((b"connection", b"close"))
            await send(message)

        return dressed

    def _cors(self, sent: InspectedHeaders) -> bodies.Headers:
        """Only for origins that the settings list, each by its own name (Fetch standard, CORS)."""
        origin = sent.get(b"origin", [b""])[0]
        if origin not in self._origins:
            return [(b"vary", b"Origin")]
        return [
            (b"vary", b"Origin"),
            (b"access-control-allow-origin", origin),
            (b"access-control-expose-headers", CORS_EXPOSED_HEADERS),
        ]

    async def _preflight(self, scope: Scope, send: Send) -> bool:
        sent = dict(scope["headers"])
        asked = b"access-control-request-method" in sent and scope["method"] == "OPTIONS"
        if not asked or sent.get(b"origin") not in self._origins:
            return False
        allowed = {
            "Access-Control-Allow-Methods": CORS_METHODS.decode(),
            "Access-Control-Allow-Headers": CORS_HEADERS.decode(),
            "Access-Control-Max-Age": "600",
        }
        await send_response(send, 204, b"", allowed)
        return True

    def _log(self, scope: Scope, context: RequestContext) -> None:
        seconds = context.seconds or time.perf_counter() - context.started
        line: dict[str, Any] = {"request_id": context.request_id}
        extensions, operation = scope["extensions"], None
        if ROUTING_CONTEXT in extensions:
            line["operation"] = operation = extensions[ROUTING_CONTEXT]["operation_id"]
        line["method"] = context.method
        line["status"] = context.status
        line["duration_ms"] = round(seconds * 1000, 2)
        if principal := extensions.get("connexion_context", {}).get("token_info"):
            line["tenant"] = principal["org_id"]
        if context.reason:
            line["reason"] = context.reason
        if context.trace_id:
            line["trace_id"] = context.trace_id
        self._metrics.observe(operation, context.method, context.status, seconds)
        self._write_line(line)


def check_bounds(sent: InspectedHeaders) -> None:
    """Refuse a body that is larger than the service takes; `Protocol` has bounded the head."""
    bodies.check_content_length(sent.get(b"content-length", ()))
    if len(sent.get(b"host", ())) != 1:
        raise problems.invalid_request([problems.FieldError("header", "/host", "needed once")])


def check_framing(sent: InspectedHeaders, http_version: str) -> None:
    """Refuse codings that proxies may read in another way (RFC 9112, 6.1)."""
    codings = [value.lower() for value in sent.get(b"transfer-encoding", ())]
    if codings and (codings != [b"chunked"] or http_version == "1.0"):
        problem = problems.invalid_request(
            [problems.FieldError("header", "/transfer-encoding", "not chunked")]
        )
        problem.headers["Connection"] = "close"
        raise problem


def headers_too_large() -> Problem:
    """RFC 6585 section 5."""
    detail = f"The header fields may have {MAX_HEADER_BYTES} bytes and be {MAX_HEADER_FIELDS}"
    return Problem("headers-too-large", detail, headers={"Connection": "close"})


async def _respond(error: Exception, context: RequestContext, receive: Receive, send: Send) -> None:
    problem = problems.from_error(error)
    if problem.code == "internal-error":
        log.error("request failed", request_id=context.request_id, exc_info=error)
    if context.status:
        return
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


def _inspected(headers: bodies.Headers) -> InspectedHeaders:
    """Return what the guard looks at, in one pass."""
    found: InspectedHeaders = {}
    for name, value in headers:
        if name in INSPECTED:
            found.setdefault(name, []).append(value)
    return found


def _request_id(sent: InspectedHeaders) -> str:
    """Take the client's id where it is well-formed, else make one: unique, not secret."""
    for value in sent.get(b"x-request-id", ()):
        if _REQUEST_ID.fullmatch(value):
            return value.decode()
    return f"{random.getrandbits(64):016x}"
