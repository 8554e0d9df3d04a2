"""Requests at a rate that does not ask how fast they are answered, as many clients send them.

A latency counts from when the request was due: one that could not even be sent is late, too.
"""

import asyncio
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import uvloop

from evidence.resilience.load import TIMEOUT, Reply, Request, sent_as

TICK = 0.005
MOST = 3000  # in flight at once; what is due beyond counts as not sent
FIELD = re.compile(rb"\r\n([a-z-]+): ([^\r]*)", re.IGNORECASE)


@dataclass(frozen=True)
class Flow:
    """`rate` requests per second."""

    name: str
    ask: Callable[[int], Request]
    rate: float


def flows(port: int, seconds: float, *wanted: Flow) -> list[Reply]:
    """Send each flow for so many seconds, and return every answer when all have come.

    Status 0 is what could not be sent or was not answered.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_flows(port, seconds, wanted))


async def _flows(port: int, seconds: float, wanted: Sequence[Flow]) -> list[Reply]:
    done: list[Reply] = []
    await asyncio.gather(*[_flow(port, seconds, flow, done) for flow in wanted])
    return done


async def _flow(port: int, seconds: float, flow: Flow, done: list[Reply]) -> None:
    idle: list[_Client] = []
    busy: set[_Client] = set()
    connecting: set[asyncio.Task[None]] = set()
    loop, began, sent = asyncio.get_running_loop(), time.monotonic(), 0

    async def connect(request: Request, due: float) -> None:
        client = _Client(flow.name, idle, busy, done)
        client.ask(request, due)
        try:
            await loop.create_connection(lambda: client, "127.0.0.1", port)
        except OSError:
            client.connection_lost(None)

    while (now := time.monotonic()) < began + seconds:
        while sent < (now - began) * flow.rate:
            due, request = began + sent / flow.rate, flow.ask(sent)
            sent += 1
            if idle:
                idle.pop().ask(request, due)
            elif len(busy) + len(connecting) >= MOST:
                done.append(Reply(flow.name, request, due, 0.0, 0))
            else:
                task = asyncio.create_task(connect(request, due))
                connecting.add(task)
                task.add_done_callback(connecting.discard)
        await asyncio.sleep(TICK)
    ends = time.monotonic() + TIMEOUT
    while (busy or connecting) and time.monotonic() < ends:  # noqa: ASYNC110
        await asyncio.sleep(TICK)
    for client in (*busy, *idle):
        client.close()


class _Client(asyncio.Protocol):
    """One connection that is kept; of `idle` or `busy`."""

    def __init__(
        self, name: str, idle: "list[_Client]", busy: "set[_Client]", done: list[Reply]
    ) -> None:
        self._name, self._idle, self._busy, self._done = name, idle, busy, done
        self._transport: Any = None
        self._asked: tuple[Request, float] | None = None
        self._read = b""

    def ask(self, request: Request, due: float) -> None:
        self._asked, self._read = (request, due), b""
        self._busy.add(self)
        if self._transport:
            self._transport.write(sent_as(request, fresh=False))

    def close(self) -> None:
        if self._transport:
            self._transport.close()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        if self._asked:
            transport.write(sent_as(self._asked[0], fresh=False))

    def data_received(self, data: bytes) -> None:
        self._read += data
        head, end, body = self._read.partition(b"\r\n\r\n")
        fields = {n.lower().decode(): v.decode("latin-1") for n, v in FIELD.findall(head)}
        if end and len(body) >= int(fields.get("content-length", 0)):
            self._end(int(head[9:12]), fields, body)
            self._idle.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(0, {}, b"")
        if self in self._idle:
            self._idle.remove(self)

    def _end(self, status: int, fields: dict[str, str], body: bytes) -> None:
        if self._asked:
            (request, due), self._asked = self._asked, None
            self._busy.discard(self)
            seconds = time.monotonic() - due
            self._done.append(Reply(self._name, request, due, seconds, status, fields, body))
