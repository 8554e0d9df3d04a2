"""An open-loop load generator: it sends at a fixed rate, however slow the responses are.

Latency counts from when a request was due, so a request that had to wait for its turn is late too.
"""

import asyncio
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import uvloop

from evidence.resilience.load import TIMEOUT_SECONDS, Request, Response, serialize

TICK_SECONDS = 0.005
MAX_IN_FLIGHT = 3000  # a request that is due beyond this is not sent, and has status 0
FIELD = re.compile(rb"\r\n([a-z-]+): ([^\r]*)", re.IGNORECASE)


@dataclass(frozen=True)
class Flow:
    """A stream of requests at `rate` per second; `next_request` returns the n-th."""

    name: str
    next_request: Callable[[int], Request]
    rate: float


def send_flows(port: int, seconds: float, *flows: Flow) -> list[Response]:
    """Send all flows for `seconds`, wait for outstanding requests, and return every response.

    Status 0 means that a request could not be sent or got no response.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_send_flows(port, seconds, flows))


async def _send_flows(port: int, seconds: float, flows: Sequence[Flow]) -> list[Response]:
    responses: list[Response] = []
    await asyncio.gather(*[_send_flow(port, seconds, flow, responses) for flow in flows])
    return responses


async def _send_flow(port: int, seconds: float, flow: Flow, responses: list[Response]) -> None:
    idle: list[_Client] = []
    busy: set[_Client] = set()
    connecting: set[asyncio.Task[None]] = set()
    loop, started, count = asyncio.get_running_loop(), time.monotonic(), 0

    async def connect(request: Request, due: float) -> None:
        client = _Client(flow.name, idle, busy, responses)
        client.send(request, due)
        try:
            await loop.create_connection(lambda: client, "127.0.0.1", port)
        except OSError:
            client.connection_lost(None)

    while (now := time.monotonic()) < started + seconds:
        while count < (now - started) * flow.rate:
            due, request = started + count / flow.rate, flow.next_request(count)
            count += 1
            if idle:
                idle.pop().send(request, due)
            elif len(busy) + len(connecting) >= MAX_IN_FLIGHT:
                responses.append(Response(flow.name, request, due, 0.0, 0))
            else:
                task = asyncio.create_task(connect(request, due))
                connecting.add(task)
                task.add_done_callback(connecting.discard)
        await asyncio.sleep(TICK_SECONDS)
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while (busy or connecting) and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(TICK_SECONDS)
    for client in (*busy, *idle):
        client.close()


class _Client(asyncio.Protocol):
    """A keep-alive connection, which is in either `idle` or `busy`."""

    def __init__(
        self,
        flow: str,
        idle: "list[_Client]",
        busy: "set[_Client]",
        responses: list[Response],
    ) -> None:
        self._flow, self._idle, self._busy, self._responses = flow, idle, busy, responses
        self._transport: Any = None
        self._pending: tuple[Request, float] | None = None
        self._received = b""

    def send(self, request: Request, due: float) -> None:
        self._pending, self._received = (request, due), b""
        self._busy.add(self)
        if self._transport:
            self._transport.write(serialize(request, close=False))

    def close(self) -> None:
        if self._transport:
            self._transport.close()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        if self._pending:
            transport.write(serialize(self._pending[0], close=False))

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        fields = {n.lower().decode(): v.decode("latin-1") for n, v in FIELD.findall(head)}
        if end and len(body) >= int(fields.get("content-length", 0)):
            self._finish(int(head[9:12]), fields, body)
            self._idle.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._finish(0, {}, b"")
        if self in self._idle:
            self._idle.remove(self)

    def _finish(self, status: int, fields: dict[str, str], body: bytes) -> None:
        if self._pending:
            (request, due), self._pending = self._pending, None
            self._busy.discard(self)
            seconds = time.monotonic() - due
            response = Response(self._flow, request, due, seconds, status, fields, body)
            self._responses.append(response)
