"""A load client on a thread of its own: it counts every answer, and every one that is missing.

It never tries again. What a proper client could hide, such as a connection that was closed under
a request, is counted here.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

TIMEOUT = 15.0


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    token: str = ""
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Reply:
    """`status` 0 is a connection that failed; `began` is by the monotonic clock."""

    stream: str
    request: Request
    began: float
    seconds: float
    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    def __str__(self) -> str:
        said = self.body[:200].decode(errors="replace")
        return f"{self.stream}: {self.request.method} {self.status} {said}"

    @property
    def ended(self) -> float:
        return self.began + self.seconds


@dataclass(frozen=True)
class Stream:
    """So many clients that each send, wait for the answer and pause (s), over and over.

    `fresh` makes a connection for each request; otherwise one is kept until it is closed.
    """

    name: str
    ask: Callable[[int], Request]
    clients: int = 4
    pause: float = 0.0
    fresh: bool = False


class Load:
    """What has been answered so far; `stop` ends it when every request has its answer."""

    def __init__(self, port: int, streams: Sequence[Stream]) -> None:
        self.replies: list[Reply] = []
        self._port, self._streams = port, streams
        self._stopping = False
        self._count = 0
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._thread.start()

    def stop(self) -> list[Reply]:
        self._stopping = True
        self._thread.join(3 * TIMEOUT)
        return self.replies

    async def _run(self) -> None:
        clients = [self._client(s) for s in self._streams for _ in range(s.clients)]
        await asyncio.gather(*clients)

    async def _client(self, stream: Stream) -> None:
        connection = Connection(self._port)
        while not self._stopping:
            self._count += 1
            request = stream.ask(self._count)
            self.replies.append(await connection.ask(stream.name, request, stream.fresh))
            if stream.pause:
                await asyncio.sleep(stream.pause)
        connection.close()


class Connection:
    """One kept connection, made anew when either side has closed it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    def close(self) -> None:
        if self._streams:
            self._streams[1].close()
            self._streams = None

    async def ask(self, stream: str, request: Request, fresh: bool = False) -> Reply:
        began = time.monotonic()
        status, headers, body = 0, dict[str, str](), b""
        try:
            async with asyncio.timeout(TIMEOUT):
                status, headers, body = await self._exchange(request, fresh)
        except (OSError, EOFError, TimeoutError, ValueError) as error:
            self.close()
            body = type(error).__name__.encode()
        if fresh or headers.get("connection") == "close":
            self.close()
        return Reply(stream, request, began, time.monotonic() - began, status, headers, body)

    async def _exchange(self, request: Request, fresh: bool) -> tuple[int, dict[str, str], bytes]:
        if self._streams and self._streams[0].at_eof():
            self.close()
        if not self._streams:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(sent_as(request, fresh))
        await writer.drain()
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        pairs = (line.split(":", 1) for line in head[1:] if ":" in line)
        headers = {name.strip().lower(): value.strip() for name, value in pairs}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        return int(head[0].split()[1]), headers, body


def sent_as(request: Request, fresh: bool) -> bytes:
    lines = [f"{request.method} {request.path} HTTP/1.1", "Host: 127.0.0.1"]
    if request.token:
        lines.append(f"Authorization: Bearer {request.token}")
    if request.body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(request.body)}"]
    if fresh:
        lines.append("Connection: close")
    lines += [f"{name}: {value}" for name, value in request.headers]
    return "\r\n".join([*lines, "", ""]).encode() + request.body


@contextmanager
def loading(port: int, *streams: Stream) -> Iterator[Load]:
    """Load the service on `port` until the end of the block, or until `stop`."""
    load = Load(port, streams)
    try:
        yield load
    finally:
        with suppress(RuntimeError):
            load.stop()


def once(port: int, request: Request) -> Reply:
    """Send one request over a connection of its own."""
    return at_once(port, [request])[0]


def at_once(port: int, requests: Sequence[Request]) -> list[Reply]:
    """Send them all at the same time, each over a connection of its own."""

    async def send() -> list[Reply]:
        asked = [Connection(port).ask("once", request, fresh=True) for request in requests]
        return await asyncio.gather(*asked)

    return asyncio.run(send())


def failed(replies: Sequence[Reply]) -> list[Reply]:
    """Return those that were not answered with 2xx."""
    return [reply for reply in replies if not 200 <= reply.status < 300]


def percentile(replies: Sequence[Reply], share: float) -> float:
    """Return the latency (s) that `share` of the replies stay within, infinity for no reply."""
    latencies = sorted(reply.seconds for reply in replies)
    if not latencies:
        return float("inf")
    return latencies[min(len(latencies) - 1, int(share * len(latencies)))]


def tally(replies: Sequence[Reply]) -> str:
    """Return how often each status was answered: `200 x 12, 503 x 3`."""
    statuses = sorted({reply.status for reply in replies})
    return ", ".join(f"{s} x {sum(r.status == s for r in replies)}" for s in statuses) or "nothing"


def told(replies: Sequence[Reply]) -> str:
    """Return the tally, and what the first said."""
    return f"{tally(replies)}; first: {replies[0]}" if replies else "nothing"
