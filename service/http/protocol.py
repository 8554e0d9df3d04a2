"""HTTP/1.1 parsed by uvicorn, with bounds on every phase, and problems instead of plain text."""

import math
import secrets
from itertools import islice
from typing import Any, NoReturn

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from db.errors import Reason, Unavailable
from service.http import problems
from service.http.buffered_transport import BufferedTransport
from service.http.problems import FieldError, Problem, invalid_request
from service.http.request_middleware import (
    CONTENT_SECURITY_POLICY,
    LINGER_SECONDS,
    MAX_HEADER_BYTES,
    MAX_HEADER_FIELDS,
    SECURITY_HEADERS,
    headers_too_large,
)
from service.http.responses import PROBLEM_TYPE
from service.telemetry.logs import request_logger
from service.telemetry.metrics import OTHER_METHOD, Metrics

HEAD_TIMEOUT_SECONDS = 5
MAX_PIPELINED = 32  # requests that may wait behind another (RFC 9112 section 9.3.2)
MAX_UNREAD_SECONDS = 30  # how long a response may stay unread
MAX_EVICTION_CANDIDATES = 100  # connections that are examined to find an idle one
# Also allows for the rest of the request line, and the colon and line end of each field.
MAX_RAW_HEAD_BYTES = MAX_HEADER_BYTES + 1024
REASON_PHRASES = {
    400: b"Bad Request",
    408: b"Request Timeout",
    431: b"Request Header Fields Too Large",
    503: b"Service Unavailable",
}


class HttpProtocol(HttpToolsProtocol):
    """One connection. A head that is too large, too slow or malformed ends it with a problem.

    A connection that waits for its client has a deadline. One timer calls `check_deadline` of all
    connections: setting and cancelling a timer per request costs more than parsing it.
    """

    def __init__(self, *args: Any, metrics: Metrics, max_connections: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._metrics = metrics
        self._max_connections = max_connections
        self._in_head = True
        self._ended = False
        self._head_bytes = 0
        self._head_fields = 0
        # Bytes of head, trailers and chunk extensions that arrived since the last part of a body.
        self._raw_bytes = 0
        self._deadline = math.inf
        self._is_idle = False
        self._waiting_since = 0.0
        self._unread_since = math.inf

    def connection_made(self, transport: Any) -> None:
        """Accept the connection, or reject it when there are too many and none is idle."""
        super().connection_made(BufferedTransport(transport, self.loop))  # type: ignore[arg-type]
        self._set_deadline(HEAD_TIMEOUT_SECONDS)
        if len(self.connections) > self._max_connections and not self._close_idle_connection():
            error = Unavailable(Reason.NO_ROOM, "there are too many connections")
            self._metrics.record_error(error)
            self._reject(problems.from_error(error))
            self.transport.close()

    def _close_idle_connection(self) -> bool:
        """Close a connection that waits for its client's next request; return whether one did."""
        for other in islice(self.connections, MAX_EVICTION_CANDIDATES):
            if (
                isinstance(other, HttpProtocol)
                and other._is_idle
                and not other.transport.is_closing()
            ):
                other.transport.close()
                return True
        return False

    def check_deadline(self, now: float) -> None:
        """End the connection if it missed its deadline; `now` is the event loop's time."""
        if not self.transport.get_write_buffer_size():
            self._unread_since = math.inf
        elif now - self._unread_since > MAX_UNREAD_SECONDS:
            self.transport.abort()  # close() would wait for the client to read
        else:
            self._unread_since = min(self._unread_since, now)
        if now < self._deadline or self._ended or self.transport.is_closing():
            return
        self._deadline = math.inf
        if self._is_idle:
            self.transport.close()
        else:
            self._reject(Problem("request-timeout", "The request did not arrive in time"))

    def data_received(self, data: bytes) -> None:
        """Parse what arrived."""
        if self._ended:
            return
        if self._is_idle or (self._in_head and self._deadline == math.inf):
            self._set_deadline(HEAD_TIMEOUT_SECONDS)
        self._raw_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # The response is HTTP/1.1 (RFC 9110 section 7.8); what follows may be another protocol.
            self._ended = True
        except (httptools.HttpParserError, UnicodeDecodeError, ValueError):
            self._reject(invalid_request([FieldError("header", "", "is not HTTP/1.1")]))
        if self._raw_bytes > MAX_RAW_HEAD_BYTES:
            self._head_bytes = self._raw_bytes
            self._reject(headers_too_large())

    def on_message_begin(self) -> None:
        """Start to count the size of a head."""
        self._head_bytes = self._head_fields = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Limit the size of the request target."""
        self._head_bytes += len(url)
        if self._head_bytes > MAX_HEADER_BYTES:
            self._raise_too_large()
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Limit the number and the size of the header fields."""
        self._head_fields += 1
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > MAX_HEADER_BYTES or self._head_fields > MAX_HEADER_FIELDS:
            self._raise_too_large()
        # Trailers are counted and dropped: as header fields they could pose as fields of a proxy.
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Start the application, or queue the request behind the one before."""
        self._deadline = math.inf
        self._in_head = False
        self._raw_bytes = 0
        if len(self.pipeline) == MAX_PIPELINED:
            raise ValueError("too many pipelined requests")
        super().on_headers_complete()
        if self.parser.should_upgrade():
            self.cycle.keep_alive = False  # what follows may be another protocol

    def on_body(self, body: bytes) -> None:
        """Pass on a part of the body."""
        self._raw_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Wait for the next request, unless this one has no response yet."""
        self._deadline = math.inf
        self._in_head = True
        self._raw_bytes = 0
        super().on_message_complete()
        if self.cycle.response_complete:
            self._set_deadline(self.timeout_keep_alive, idle=True)

    def on_response_complete(self) -> None:
        """Start the next pipelined request, or wait for one."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        if not self._in_head and self.cycle.response_complete:
            # The response is complete, but the rest of the body has not arrived.
            self._set_deadline(HEAD_TIMEOUT_SECONDS)
        elif self._in_head and self._deadline == math.inf:
            self._set_deadline(self.timeout_keep_alive, idle=True)

    def _raise_too_large(self) -> NoReturn:
        self._head_bytes = MAX_HEADER_BYTES + 1
        raise ValueError("header fields too large")

    def _set_deadline(self, seconds: float, *, idle: bool = False) -> None:
        self._is_idle = idle
        self._waiting_since = self.loop.time()
        self._deadline = self._waiting_since + seconds

    def _reject(self, problem: Problem) -> None:
        """End the connection, with `problem` unless the application sends a response."""
        if self._ended or self.transport.is_closing():
            return
        self._ended = True
        self._deadline = math.inf
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete and not cycle.more_body:
            # The request before the broken one is complete: its response ends the connection.
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
            is_too_large = self._head_bytes > MAX_HEADER_BYTES
            self._respond(headers_too_large() if is_too_large else problem)

    def _respond(self, problem: Problem) -> None:
        request_id = secrets.token_hex(8)
        body = problems.to_json(problem, request_id)
        headers = {**problem.headers, "Connection": "close"}
        head = [
            b"HTTP/1.1 %d %s" % (problem.status, REASON_PHRASES[problem.status]),
            b"content-type: " + PROBLEM_TYPE.encode(),
            b"content-length: %d" % len(body),
            b"x-request-id: " + request_id.encode(),
            *(f"{name}: {value}".encode() for name, value in headers.items()),
            *(b": ".join(header) for header in SECURITY_HEADERS),
            b"content-security-policy: " + CONTENT_SECURITY_POLICY,
        ]
        self.transport.write(b"\r\n".join(head) + b"\r\n\r\n" + body)
        self.transport.write_eof()
        self.loop.call_later(LINGER_SECONDS, self.transport.close)
        seconds = self.loop.time() - self._waiting_since
        self._metrics.record_response(None, OTHER_METHOD, problem.status, seconds)
        line = {"request_id": request_id, "status": problem.status}
        request_logger()(line | {"duration_ms": round(seconds * 1000, 2)}, "-")
