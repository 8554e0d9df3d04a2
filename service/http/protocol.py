"""HTTP/1.1 as uvicorn parses it, with bounds, and problems where it would answer plain text."""

import math
import secrets
from itertools import islice
from typing import Any, NoReturn
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from db.errors import Unavailable
from service.http import problems
from service.http.problems import FieldError, Problem
from service.http.request_middleware import (
    CONTENT_SECURITY_POLICY,
    LINGER_SECONDS,
    MAX_HEADER_BYTES,
    MAX_HEADER_FIELDS,
    SECURITY_HEADERS,
    headers_too_large,
)
from service.http.response_cycle import new_cycle
from service.http.responses import PROBLEM_TYPE
from service.telemetry.logs import request_logger
from service.telemetry.metrics import OTHER_METHOD, Metrics

HEAD_TIMEOUT_SECONDS = 5
MAX_PIPELINED = 32  # requests that wait behind one; who sent more sends again (RFC 9112, 9.3.2)
MAX_UNREAD_SECONDS = 30  # how long an answer may lie here because its client does not read on
MAX_EVICTION_CANDIDATES = 100  # connections, for one that may go
# With the request line's other words, and the colon and line end of each field.
MAX_RAW_HEAD_BYTES = MAX_HEADER_BYTES + 1024
REASONS = {
    400: b"Bad Request",
    408: b"Request Timeout",
    431: b"Request Header Fields Too Large",
    503: b"Service Unavailable",
}


class HttpProtocol(HttpToolsProtocol):
    """One connection. A head that is too large, too slow or malformed ends it with a problem.

    What is awaited has a deadline that `look` holds it to, for all connections in one go: timers
    that are set and cancelled for each request cost more than the rest of the parsing.
    """

    def __init__(self, *args: Any, metrics: Metrics, most: int, **kwargs: Any) -> None:
        """`most` is how many connections there may be."""
        super().__init__(*args, **kwargs)
        self._metrics = metrics
        self._most = most
        self._in_head = True
        self._ended = False
        self._head_bytes = 0
        self._head_fields = 0
        # Since the last piece of a body: the head, trailers and extensions of chunks, as sent.
        self._raw_bytes = 0
        self._deadline = math.inf
        self._idle = False
        self._timed_from = 0.0
        self._unread_since = math.inf

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._expect(HEAD_TIMEOUT_SECONDS)
        if len(self.connections) > self._most and not self._make_room():
            self._refuse(problems.from_error(Unavailable("too many connections")))
            self.transport.close()

    def _make_room(self) -> bool:
        """End a connection that only waits for its client's next request."""
        for other in islice(self.connections, MAX_EVICTION_CANDIDATES):
            if isinstance(other, HttpProtocol) and other._idle and not other.transport.is_closing():
                other.transport.close()
                return True
        return False

    def look(self, now: float) -> None:
        """End the connection if what is awaited is late; `now` is the event loop's time."""
        if not self.transport.get_write_buffer_size():
            self._unread_since = math.inf
        elif now - self._unread_since > MAX_UNREAD_SECONDS:
            self.transport.abort()  # to close it would wait for the client to read
        else:
            self._unread_since = min(self._unread_since, now)
        if now < self._deadline or self._ended or self.transport.is_closing():
            return
        self._deadline = math.inf
        if self._idle:
            self.transport.close()
        else:
            self._refuse(Problem("request-timeout", "The request did not arrive in time"))

    def data_received(self, data: bytes) -> None:
        if self._ended:
            return
        if self._idle or (self._in_head and self._deadline == math.inf):
            self._expect(HEAD_TIMEOUT_SECONDS)
        self._raw_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # Answered in HTTP/1.1 (RFC 9110, 7.8); what follows could be of another protocol.
            self._ended = True
        except (httptools.HttpParserError, UnicodeDecodeError, ValueError):
            self._refuse(problems.invalid_request([FieldError("header", "", "not HTTP/1.1")]))
        if self._raw_bytes > MAX_RAW_HEAD_BYTES:
            self._head_bytes = self._raw_bytes
            self._refuse(headers_too_large())

    def on_message_begin(self) -> None:
        self._head_bytes = self._head_fields = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._head_bytes += len(url)
        if self._head_bytes > MAX_HEADER_BYTES:
            self._too_large()
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_fields += 1
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > MAX_HEADER_BYTES or self._head_fields > MAX_HEADER_FIELDS:
            self._too_large()
        # Trailers are counted and dropped: merged, they would pass for what a proxy vouched for.
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._deadline = math.inf
        self._in_head = False
        self._raw_bytes = 0
        parser, scope = self.parser, self.scope
        version, upgrades = parser.get_http_version(), parser.should_upgrade()
        url = httptools.parse_url(self.url)
        scope["http_version"] = version
        scope["method"] = parser.get_method().decode("ascii")
        scope["raw_path"] = url.path
        scope["path"] = unquote(url.path.decode("ascii"))
        scope["query_string"] = url.query or b""
        keep_alive = version != "1.0" and not upgrades and parser.should_keep_alive()
        before = self.cycle
        if len(self.pipeline) == MAX_PIPELINED:
            raise ValueError("too many requests at once")
        self.cycle = new_cycle(self, keep_alive, self.on_response_complete)
        if before is None or before.response_complete:
            self._start_asgi_task(self.cycle, self.app)
        else:  # pipelined: it waits for its turn
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self.tasks.add(self.loop.create_task(cycle.run(app, self.tasks)))

    def on_body(self, body: bytes) -> None:
        self._raw_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._deadline = math.inf
        self._in_head = True
        self._raw_bytes = 0
        super().on_message_complete()
        if self.cycle.response_complete:
            self._expect(self.timeout_keep_alive, idle=True)

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        if not self._in_head and self.cycle.response_complete:
            # The rest of a body that nobody waits for.
            self._expect(HEAD_TIMEOUT_SECONDS)
        elif self._in_head and self._deadline == math.inf:
            self._expect(self.timeout_keep_alive, idle=True)

    def _too_large(self) -> NoReturn:
        self._head_bytes = MAX_HEADER_BYTES + 1
        raise ValueError("header fields too large")

    def _expect(self, seconds: float, *, idle: bool = False) -> None:
        self._idle = idle
        self._timed_from = self.loop.time()
        self._deadline = self._timed_from + seconds

    def _refuse(self, problem: Problem) -> None:
        """End the connection, with an answer where none is to be expected from the service."""
        if self._ended or self.transport.is_closing():
            return
        self._ended = True
        self._deadline = math.inf
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
            self._answer(headers_too_large() if self._head_bytes > MAX_HEADER_BYTES else problem)

    def _answer(self, problem: Problem) -> None:
        request_id = secrets.token_hex(8)
        body = problems.to_json(problem, request_id)
        lines = [
            b"HTTP/1.1 %d %s" % (problem.status, REASONS[problem.status]),
            b"content-type: " + PROBLEM_TYPE.encode(),
            b"content-length: %d" % len(body),
            b"x-request-id: " + request_id.encode(),
            *(f"{n}: {v}".encode() for n, v in {**problem.headers, "Connection": "close"}.items()),
            *(b": ".join(header) for header in SECURITY_HEADERS),
            b"content-security-policy: " + CONTENT_SECURITY_POLICY,
        ]
        self.transport.write(b"\r\n".join(lines) + b"\r\n\r\n" + body)
        self.transport.write_eof()
        self.loop.call_later(LINGER_SECONDS, self.transport.close)
        seconds = self.loop.time() - self._timed_from
        self._metrics.observe(None, OTHER_METHOD, problem.status, seconds)
        line = {"request_id": request_id, "status": problem.status}
        request_logger()(line | {"duration_ms": round(seconds * 1000, 2)})
