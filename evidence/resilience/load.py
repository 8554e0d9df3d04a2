"""A closed-loop load generator on its own thread, which records every response and every failure.

It never retries: a failure that a forgiving client would hide, such as a connection that the
service closes under a request, counts.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

TIMEOUT_SECONDS = 15.0


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    token: str = ""
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Response:
    """The outcome of one request of a stream; status 0 means that no response arrived.

    `started` is on the monotonic clock. Without a response, `body` is the name of the exception.
    """

    stream: str
    request: Request
    started: float
    seconds: float
    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    def __str__(self) -> str:
        body = self.body[:200].decode(errors="replace")
        return f"{self.stream}: {self.request.method} {self.status} {body}"

    @property
    def ended(self) -> float:
        return self.started + self.seconds

    @property
    def is_retryable_503(self) -> bool:
        """Whether the service rejected the request and told the client when to retry."""
        return self.status == 503 and "retry-after" in self.headers


@dataclass(frozen=True)
class Stream:
    """`clients` that each send a request, wait for its response and `pause` (s), in a loop.

    `next_request` returns the n-th request of the whole load. With `reconnect`, every request has
    its own connection; otherwise a client keeps one until either side closes it.
    """

    name: str
    next_request: Callable[[int], Request]
    clients: int = 4
    pause: float = 0.0
    reconnect: bool = False


class Load:
    """Running clients. `responses` grows until `stop`, which waits for outstanding requests."""

    def __init__(self, port: int, streams: Sequence[Stream]) -> None:
        self.responses: list[Response] = []
        self._port, self._streams = port, streams
        self._is_stopping = False
        self._count = 0
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._thread.start()

    def stop(self) -> list[Response]:
        """Stop the clients and return all responses."""
        self._is_stopping = True
        self._thread.join(3 * TIMEOUT_SECONDS)
        return self.responses

    async def _run(self) -> None:
        clients = [self._client(s) for s in self._streams for _ in range(s.clients)]
        await asyncio.gather(*clients)

    async def _client(self, stream: Stream) -> None:
        connection = Connection(self._port)
        while not self._is_stopping:
            self._count += 1
            request = stream.next_request(self._count)
            response = await connection.send(stream.name, request, reconnect=stream.reconnect)
            self.responses.append(response)
            if stream.pause:
                await asyncio.sleep(stream.pause)
        connection.close()


class Connection:
    """A keep-alive connection, reopened after either side closed it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    def close(self) -> None:
        if self._streams:
            self._streams[1].close()
            self._streams = None

    async def send(self, stream: str, request: Request, *, reconnect: bool = False) -> Response:
        """Return the response, with status 0 when the connection fails or times out."""
        started = time.monotonic()
        status, headers, body = 0, dict[str, str](), b""
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                status, headers, body = await self._exchange(request, reconnect=reconnect)
        except (OSError, EOFError, TimeoutError, ValueError) as error:
            self.close()
            body = type(error).__name__.encode()
        if reconnect or headers.get("connection") == "close":
            self.close()
        seconds = time.monotonic() - started
        return Response(stream, request, started, seconds, status, headers, body)

    async def _exchange(
        self, request: Request, *, reconnect: bool
    ) -> tuple[int, dict[str, str], bytes]:
        if self._streams and self._streams[0].at_eof():
            self.close()
        if not self._streams:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(serialize(request, close=reconnect))
        await writer.drain()
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        pairs = (line.split(":", 1) for line in head[1:] if ":" in line)
        headers = {name.strip().lower(): value.strip() for name, value in pairs}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        return int(head[0].split()[1]), headers, body


def serialize(request: Request, *, close: bool) -> bytes:
    """Return the bytes of a request. With `close`, the connection ends with the response."""
    lines = [f"{request.method} {request.path} HTTP/1.1", "Host: 127.0.0.1"]
    if request.token:
        lines.append(f"Authorization: Bearer {request.token}")
    if request.body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(request.body)}"]
    if close:
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


def send_once(port: int, request: Request) -> Response:
    """Send one request on a new connection."""
    return send_concurrently(port, [request])[0]


def send_concurrently(port: int, requests: Sequence[Request]) -> list[Response]:
    """Send all requests at the same time, each on a new connection."""

    async def send() -> list[Response]:
        return await asyncio.gather(
            *[Connection(port).send("once", request, reconnect=True) for request in requests]
        )

    return asyncio.run(send())


def failures(responses: Sequence[Response]) -> list[Response]:
    """Return the responses outside 2xx, those that never arrived included."""
    return [response for response in responses if not 200 <= response.status < 300]


def latency_percentile(responses: Sequence[Response], fraction: float) -> float:
    """Return the latency (s) that `fraction` of the responses do not exceed; infinity for none."""
    latencies = sorted(response.seconds for response in responses)
    if not latencies:
        return float("inf")
    return latencies[min(len(latencies) - 1, int(fraction * len(latencies)))]


def tally(responses: Sequence[Response]) -> str:
    """Return the number of responses by status: `200 x 12, 503 x 3`."""
    statuses = sorted({response.status for response in responses})
    counts = [f"{s} x {sum(r.status == s for r in responses)}" for s in statuses]
    return ", ".join(counts) or "no responses"


def summarize(responses: Sequence[Response]) -> str:
    """Return the tally, and the first response."""
    return tally(responses) + (f"; first: {responses[0]}" if responses else "")
