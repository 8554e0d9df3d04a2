"""HTTP/1.1 as uvicorn parses it, with bounds, and problems where it would answer plain text."""

import secrets
from typing import Any

import httptools
import structlog
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from handlers.runtime import problems
from handlers.runtime.answers import PROBLEM
from handlers.runtime.guard import (
    LINGER,
    MOST_FIELDS,
    MOST_HEADER_BYTES,
    POLICY,
    SECURITY_HEADERS,
    headers_too_large,
)
from handlers.runtime.problems import Fault, Problem

HEAD_SECONDS = 5
# With the request line's other words, and the colon and line end of each field.
MOST_RAW_BYTES = MOST_HEADER_BYTES + 1024
REASONS = {400: b"Bad Request", 408: b"Request Timeout", 431: b"Request Header Fields Too Large"}

log = structlog.get_logger("covenant.request")


class Protocol(HttpToolsProtocol):
    """One connection. A head that is too large, too slow or malformed ends it with a problem."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_head = True
        self._ended = False
        self._head_bytes = 0
        self._head_fields = 0
        # Since the last piece of a body: the head, trailers and extensions of chunks, as sent.
        self._raw_bytes = 0
        self._timer: Any = None
        self._timed_from = 0.0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        if self._ended:
            return
        if self._in_head and self._timer is None:
            self._expect_head()
        self._raw_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # Answered in HTTP/1.1 (RFC 9110, 7.8); what follows could be of another protocol.
            self._ended = True
        except (httptools.HttpParserError, UnicodeDecodeError, ValueError):
            self._refuse(problems.invalid([Fault("header", "", "not HTTP/1.1")]))
        if self._raw_bytes > MOST_RAW_BYTES:
            self._head_bytes = self._raw_bytes
            self._refuse(headers_too_large())

    def on_message_begin(self) -> None:
        self._head_bytes = self._head_fields = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_fields += 1
        self._count(len(name) + len(value))
        # Trailers are counted and dropped: merged, they would pass for what a proxy vouched for.
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._stop_timer()
        self._in_head = False
        self._raw_bytes = 0
        super().on_headers_complete()
        if self.parser.should_upgrade():
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        self._raw_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._stop_timer()
        self._in_head = True
        self._raw_bytes = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self._in_head and self.cycle.response_complete:
            # The rest of a body that nobody waits for.
            self._expect_head()

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MOST_HEADER_BYTES or self._head_fields > MOST_FIELDS:
            self._head_bytes = MOST_HEADER_BYTES + 1
            raise ValueError("header fields too large")

    def _expect_head(self) -> None:
        self._stop_timer()
        self._timed_from = self.loop.time()
        self._timer = self.loop.call_later(HEAD_SECONDS, self._too_slow)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        self._refuse(Problem("request-timeout", "The request did not arrive in time"))

    def _refuse(self, problem: Problem) -> None:
        """End the connection, with an answer where none is to be expected from the service."""
        if self._ended or self.transport.is_closing():
            return
        self._ended = True
        self._stop_timer()
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete and not cycle.more_body:
            # The request before the broken one is good, and its answer comes first.
            cycle.keep_alive = False
        elif self.pipeline or (
            cycle is not None
            and not self._in_head
            and (cycle.response_complete or cycle.response_started)
        ):
            self.transport.close()
        else:
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
            self._answer(headers_too_large() if self._head_bytes > MOST_HEADER_BYTES else problem)

    def _answer(self, problem: Problem) -> None:
        request_id = secrets.token_hex(8)
        body = problems.body(problem, request_id)
        lines = [
            b"HTTP/1.1 %d %s" % (problem.status, REASONS[problem.status]),
            b"content-type: " + PROBLEM.encode(),
            b"content-length: %d" % len(body),
            b"connection: close",
            b"x-request-id: " + request_id.encode(),
            *(b": ".join(header) for header in [*SECURITY_HEADERS, POLICY]),
        ]
        self.transport.write(b"\r\n".join(lines) + b"\r\n\r\n" + body)
        self.transport.write_eof()
        self.loop.call_later(LINGER, self.transport.close)
        log.info(
            "request",
            request_id=request_id,
            status=problem.status,
            duration_ms=round((self.loop.time() - self._timed_from) * 1000, 2),
        )
