"""HTTP/1.1 as uvicorn parses it, with bounds, and problems where it would answer plain text."""

import secrets
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from handlers.runtime import problems
from handlers.runtime.answers import PROBLEM
from handlers.runtime.guard import (
    MOST_FIELDS,
    MOST_HEADER_BYTES,
    POLICY,
    SECURITY_HEADERS,
    headers_too_large,
)
from handlers.runtime.problems import Fault, Problem

HEAD_SECONDS = 5
REASONS = {400: b"Bad Request", 408: b"Request Timeout", 431: b"Request Header Fields Too Large"}


class Protocol(HttpToolsProtocol):
    """One connection. A head that is too large, too slow or malformed ends it with a problem."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_bytes = 0
        self._head_fields = 0
        self._head_timer: Any = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._head_timer is None and (self.cycle is None or self.cycle.response_complete):
            self._expect_head()
        try:
            super().data_received(data)
        except (httptools.HttpParserError, UnicodeDecodeError, ValueError):
            self.send_400_response("")
        if self.parser is not None and self._head_bytes > MOST_HEADER_BYTES:
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
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._stop_timer()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(problems.invalid([Fault("header", "", "not HTTP/1.1")]))

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MOST_HEADER_BYTES or self._head_fields > MOST_FIELDS:
            self._head_bytes = MOST_HEADER_BYTES + 1
            raise ValueError("header fields too large")

    def _expect_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._too_slow)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _too_slow(self) -> None:
        self._head_timer = None
        self._refuse(Problem("request-timeout", "The request did not arrive in time"))

    def _refuse(self, problem: Problem) -> None:
        """Write the answer ourselves: there is no request yet that the service could answer."""
        if self.transport is None or self.transport.is_closing():
            return
        if self._head_bytes > MOST_HEADER_BYTES:
            problem = headers_too_large()
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
        self.transport.close()
