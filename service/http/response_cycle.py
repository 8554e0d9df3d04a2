"""One request and its answer on a connection: as uvicorn's, with less work for each."""

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

BODILESS = (204, 304)


class ResponseCycle(RequestResponseCycle):
    """Writes an answer whole: status line, fields and body in one piece where they come so."""

    _head = b""

    async def run(self, app: Any, tasks: set[asyncio.Task[None]]) -> None:
        """Call the application; a callback for each task that ends would cost more."""
        try:
            await self.run_asgi(app)
        finally:
            tasks.discard(asyncio.current_task())

    async def send(self, message: Any) -> None:
        """As ASGI says. An answer without Content-Length is uvicorn's matter."""
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
        length, closes = 0 if status in BODILESS else -1, False
        lines = [STATUS_LINE[status]]
        for name, value in *self.default_headers, *headers:
            if name == b"content-length":
                length = int(value)
            elif name == b"connection":
                closes = closes or b"close" in value.lower()
            lines += (name, b": ", value, b"\r\n")
        if length < 0:
            return False
        if closes:
            self.keep_alive = False
        elif not self.keep_alive:
            lines.append(b"connection: close\r\n")
        lines.append(b"\r\n")
        head = b"".join(lines)
        # No field can smuggle in another, or an answer of its own (RFC 9112, 11.1).
        count = 1 + len(self.default_headers) + len(headers) + (not self.keep_alive and not closes)
        if head.count(b"\n") != count + 1 or head.count(b"\r") != count + 1 or b"\0" in head:
            raise ValueError("a header field holds a line end")
        self._head = head
        self.response_started, self.waiting_for_100_continue = True, False
        self.expected_content_length, self.chunked_encoding = length, False
        return True

    def _write(self, body: bytes, *, more_body: bool) -> None:
        if self.scope["method"] == "HEAD":
            body, self.expected_content_length = b"", 0
        self.expected_content_length -= len(body)
        if self.expected_content_length < 0 or (self.expected_content_length and not more_body):
            raise RuntimeError("the body is not as long as its Content-Length")
        self.transport.write(self._head + body)
        self._head = b""
        if not more_body:
            self.response_complete = True
            self.message_event.set()
            if not self.keep_alive:
                self.transport.close()
            self.on_response()


def new_cycle(protocol: Any, keep_alive: bool, on_response: Callable[[], None]) -> ResponseCycle:
    """Return the cycle of the request whose head `protocol` has just read."""
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
