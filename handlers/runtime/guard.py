"""Around every request: its id, its limits, what every answer carries, and the log line."""

import asyncio
import re
import secrets
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import structlog
from connexion.middleware.abstract import ROUTING_CONTEXT
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from db.errors import Unavailable
from handlers.runtime import bodies, problems
from handlers.runtime.answers import PROBLEM, send_answer
from handlers.runtime.metrics import Metrics
from handlers.runtime.problems import Problem
from handlers.runtime.proxies import client_of
from handlers.runtime.settings import Network
from handlers.status import Status

MOST_FIELDS = 100
MOST_HEADER_BYTES = 16_384
# Seconds to read on after a refusal: closing on a client that still sends would cost it the answer.
LINGER = 1.0
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")

SECURITY_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
]
POLICY = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")
CORS_METHODS = b"GET, HEAD, POST, PUT, PATCH, DELETE"
CORS_HEADERS = b"Authorization, Content-Type, Idempotency-Key, If-Match, X-Request-Id"
CORS_EXPOSED = b"ETag, Location, Retry-After, X-Request-Id"

log = structlog.get_logger("covenant.request")


@dataclass
class Context:
    """What is known of a request besides its scope."""

    request_id: str
    client: str
    method: str
    started: float
    seconds: float = 0
    status: int = 0
    trace_id: str | None = None


class Guard:
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

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers = scope["headers"]
        context = Context(
            _request_id(headers),
            client_of(scope, self._trusted),
            scope["method"],
            time.perf_counter(),
        )
        scope = {**scope, "covenant": context, "extensions": {}}
        if scope["method"] == "HEAD":
            scope["method"] = "GET"
        send = self._dressed(send, context, headers)
        self._metrics.in_flight += 1
        try:
            demand_bounds(headers)
            demand_framing(headers, scope["http_version"])
            if not await self._preflight(scope, send):
                await self._app(scope, receive, send)
        except ConnectionResetError:
            context.status = context.status or 499
        except asyncio.CancelledError:
            # Time is up: the server ends what is still in flight when it stops.
            await _answer(Unavailable("the service is stopping"), context, receive, send)
        except Exception as error:
            self._metrics.refused(error)
            await _answer(error, context, receive, send)
        finally:
            self._metrics.in_flight -= 1
            self._log(scope, context)

    def _dressed(self, send: Send, context: Context, headers: bodies.Headers) -> Send:
        common = [*SECURITY_HEADERS, (b"x-request-id", context.request_id.encode())]
        common += self._cors(headers)

        async def dressed(message: Message) -> None:
            if message["type"] == "http.response.start":
                context.status = message["status"]
                context.seconds = time.perf_counter() - context.started
                own = message["headers"]
                own.extend(common)
                if not any(name == b"content-security-policy" for name, _ in own):
                    own.append(POLICY)
                if self._status.stopping:
                    own.append((b"connection", b"close"))
            await send(message)

        return dressed

    def _cors(self, headers: bodies.Headers) -> bodies.Headers:
        """Only for origins that the settings list, each by its own name (Fetch standard, CORS)."""
        if not self._origins:
            return []
        origin = next((value for name, value in headers if name == b"origin"), None)
        if origin not in self._origins:
            return [(b"vary", b"Origin")]
        return [
            (b"vary", b"Origin"),
            (b"access-control-allow-origin", origin),
            (b"access-control-expose-headers", CORS_EXPOSED),
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
        await send_answer(send, 204, b"", allowed)
        return True

    def _log(self, scope: Scope, context: Context) -> None:
        extensions = scope["extensions"]
        seconds = context.seconds or time.perf_counter() - context.started
        principal: dict[str, Any] = extensions.get("connexion_context", {}).get("token_info") or {}
        operation = extensions.get(ROUTING_CONTEXT, {}).get("operation_id")
        self._metrics.observe(operation, context.method, context.status, seconds)
        log.info(
            "request",
            request_id=context.request_id,
            operation=operation,
            method=context.method,
            status=context.status,
            duration_ms=round(seconds * 1000, 2),
            tenant=principal.get("org_id"),
            trace_id=context.trace_id,
        )


def demand_bounds(headers: bodies.Headers) -> None:
    """Refuse what is larger than the service takes, before anything is done with it."""
    if len(headers) > MOST_FIELDS or sum(len(n) + len(v) for n, v in headers) > MOST_HEADER_BYTES:
        raise headers_too_large()
    bodies.demand_length(headers)
    if sum(name == b"host" for name, _ in headers) != 1:
        raise problems.invalid([problems.Fault("header", "/host", "needed once")])


def demand_framing(headers: bodies.Headers, http_version: str) -> None:
    """Refuse codings that proxies may read in another way (RFC 9112, 6.1)."""
    codings = [value.lower() for name, value in headers if name == b"transfer-encoding"]
    if codings and (codings != [b"chunked"] or http_version == "1.0"):
        problem = problems.invalid([problems.Fault("header", "/transfer-encoding", "not chunked")])
        problem.headers["Connection"] = "close"
        raise problem


def headers_too_large() -> Problem:
    """RFC 6585 section 5."""
    detail = f"The header fields may have {MOST_HEADER_BYTES} bytes and be {MOST_FIELDS}"
    return Problem("headers-too-large", detail, headers={"Connection": "close"})


async def _answer(error: Exception, context: Context, receive: Receive, send: Send) -> None:
    problem = problems.of(error)
    if problem.code == "internal-error":
        log.error("request failed", request_id=context.request_id, exc_info=error)
    if context.status:
        return
    body = problems.body(problem, context.request_id)
    lingers = "Connection" in problem.headers and problem.status != 408
    await send_answer(send, problem.status, body, problem.headers, PROBLEM, more_body=lingers)
    if lingers:
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER):
                while (await receive()).get("more_body"):
                    pass
        await send({"type": "http.response.body", "body": b""})


def _request_id(headers: bodies.Headers) -> str:
    """Take the client's id where it is well-formed, else make one."""
    for name, value in headers:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return value.decode()
    return secrets.token_hex(8)
