"""One request and its response on a connection: uvicorn's cycle with less work per response."""

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from service.http.responses import NO_BODY_STATUSES


class ResponseCycle(RequestResponseCycle):
    """Writes status line, header fields and body in one piece when they arrive together."""

    _head = b""

    async def run(self, app: Any, tasks: set[asyncio.Task[None]]) -> None:
        """Call the application; a done-callback per task would cost more."""
        try:
            await self.run_asgi(app)
        finally:
            tasks.discard(asyncio.current_task())

    async def send(self, message: Any) -> None:
        """Send an ASGI message; responses without Content-Length are left to uvicorn."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        if not self.response_started and message["type"] == "http.response.start":
            if not self._start(message["status"], message["headers"]):
                await super().send(message)
        elif self._head and message["type"] == "http.response.body":
            self._write(message.get("body", b""), more_body=message.get("more_body", False))
        else:
            await super().send(message)

    def _start(self, status: int, headers: list[tuple[bytes, bytes]]) -> bool:
        """Prepare the head; return False when the length of the body is not known."""
        length, closes = 0 if status in NO_BODY_STATUSES else -1, False
        parts = [STATUS_LINE[status]]
        for name, value in *self.default_headers, *headers:
            if name == b"content-length":
                length = int(value)
            elif name == b"connection":
                closes = closes or b"close" in value.lower()
            parts += (name, b": ", value, b"\r\n")
        if length < 0:
            return False
        if closes:
            self.keep_alive = False
        elif not self.keep_alive:
            parts.append(b"connection: close\r\n")
        parts.append(b"\r\n")
        head = b"".join(parts)
        # No field may contain another field, or a response of its own (RFC 9112 section 11.1).
        adds_connection = not self.keep_alive and not closes
        lines = 2 + len(self.default_headers) + len(headers) + adds_connection
        if head.count(b"\n") != lines or head.count(b"\r") != lines or b"\0" in head:
            raise ValueError("a header field contains a line break or NUL")
        self._head = head
        self.response_started, self.waiting_for_100_continue = True, False
        self.expected_content_length, self.chunked_encoding = length, False
        return True

    def _write(self, body: bytes, *, more_body: bool) -> None:
        if self.scope["method"] == "HEAD":
            body, self.expected_content_length = b"", 0
        self.expected_content_length -= len(body)
        if self.expected_content_length < 0 or (self.expected_content_length and not more_body):
            raise RuntimeError("the body does not have the length of its Content-Length")
        self.transport.write(self._head + body)
        self._head = b""
        if not more_body:
            self.response_complete = True
            self.message_event.set()
            if not self.keep_alive:
                self.transport.close()
            self.on_response()


def new_cycle(protocol: Any, keep_alive: bool, on_response: Callable[[], None]) -> ResponseCycle:
    """Return the cycle of the request whose head `protocol` has just parsed."""
    return ResponseCycle(
        scope=protocol.scope,
        transport=protocol.transport,
        flow=protocol.flow,
        logger=protocol.logger,
        access_logger=protocol.access_logger,
        access_log=False,
        default_headers=protocol.server_state.default_headers,
        message_event=asyncio.Event(),
        expect_100_continue=protocol.expect_100_continue,
        keep_alive=keep_alive,
        on_response=on_response,
    )
