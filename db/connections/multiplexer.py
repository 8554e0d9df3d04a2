"""Many requests share a few pipeline connections, each request in its own transaction.

This module decides which connection a request takes, which requests wait and for how long, and
what is sent again. The connections themselves are in `pipeline`. Settings and limits are bound per
request, which also works behind a connection pooler.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

import psycopg
from psycopg.pq import DiagnosticField, ExecStatus

from db.connections.fair_queue import FairQueue
from db.connections.pipeline import (
    STALE_STATEMENT_STATES,
    ConnectionUnavailable,
    Outcome,
    PendingRequest,
    PipelineConnection,
    QueueTimeout,
)
from db.connections.server import connect
from db.connections.wire import encode_request, read_rows

SLOW_STATEMENT_SECONDS = 0.05  # nothing more is sent behind a statement of this age
BATCH_SECONDS = 0.002  # of reads on one connection; writes use several, to commit in parallel
RECONNECT_SECONDS = 0.02, 0.5  # first and longest pause
CONNECT_TIMEOUT_SECONDS = 5


class QueueFull(Exception):
    """More requests than the queue accepts, or a wait that took too long: nothing was sent."""


@dataclass(frozen=True)
class ConnectionStats:
    """Open connections, requests sent without a result yet, and requests that wait."""

    connections: int
    in_flight: int
    waiting: int


class Multiplexer:
    """The pipeline connections of one kind, for reads or for writes."""

    def __init__(
        self,
        conninfo: str | Callable[[], str],
        *,
        trusts: Callable[[str], bool] = lambda _: True,
        connections: int = 2,
        reserve_connection: bool = False,
        max_depth: int = 64,
        max_queue_delay: float = 0.01,
        max_waiting: int = 256,
        timeout: float = 2.5,
        statement_timeout: float = 2.0,
        read_only: bool,
    ) -> None:
        """Send up to `max_depth` requests per connection; up to `max_waiting` wait for `timeout`.

        Slow statements lower both. Requests that were sent cannot be reordered, so no more are
        sent than run within `max_queue_delay` (s), and no more wait than can be sent within half of
        `timeout` (s). The queue is fair by the value of the first setting. There is one connection
        more, with `reserve_connection`, for queue keys that have nothing in flight.

        A connection is used only if `trusts` accepts the identity of its server.

        Each connection is examined when it opens. One that reached a pooler uses no names of
        prepared statements and has one request in flight: before version 1.21 PgBouncer knows no
        prepared statements, so that a name may stand for another client's statement, and it may
        separate a request from its settings while an earlier one runs (its issue 759).
        """
        self._conninfo = conninfo if callable(conninfo) else lambda: conninfo
        self._size, self._reserve_connection = connections, reserve_connection
        self._trusts = trusts
        self._max_depth, self._max_waiting = max_depth, max_waiting
        self._max_queue_delay = max_queue_delay
        self._timeout, self._statement_timeout = timeout, statement_timeout
        self._read_only = read_only
        self._connections: list[PipelineConnection] = []
        self._queue: FairQueue[PendingRequest] = FairQueue()
        self._tasks: list[asyncio.Task[None]] = []
        self._closing, self._closed, self.last_error = False, False, "not connected yet"

    @property
    def is_connected(self) -> bool:
        """Whether any connection is open."""
        return bool(self._connections)

    @property
    def stats(self) -> ConnectionStats:
        """The connections and requests at this moment."""
        in_flight = sum(len(connection.pending) for connection in self._connections)
        return ConnectionStats(len(self._connections), in_flight, len(self._queue))

    async def open(self) -> None:
        """Start to connect and return at once, also while the database is down."""
        depths = [self._max_depth] * self._size + [0] * self._reserve_connection
        work = self._check_regularly(), *[self._keep_connected(depth) for depth in depths]
        self._tasks = [asyncio.create_task(task) for task in work]

    async def close(self, timeout: float = 5) -> None:  # noqa: ASYNC109
        """Finish what was accepted, cancel what still runs after `timeout` (s), disconnect."""
        self._closing = True
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout
        while (remaining := end - loop.time()) > 0:
            unfinished = [r.outcome for r in self._all_requests() if not r.outcome.done()]
            if not unfinished:
                break
            await asyncio.wait(unfinished, timeout=remaining)
        self._closed = True
        for task in self._tasks:
            task.cancel()
        busy = [c.connection for c in self._connections if c.pending]
        cancelled = [connection.cancel_safe(timeout=1) for connection in busy]
        await asyncio.gather(*cancelled, *self._tasks, return_exceptions=True)
        self._tasks.clear()  # a connection attempt ends with its task
        for connection in tuple(self._connections):
            connection.mark_lost("closed")
        for request in self._queue.items():
            request.finish(ConnectionUnavailable("closed"))

    async def fetch(
        self,
        settings: Sequence[tuple[str, str]],
        sql: str,
        parameters: Sequence[str | None] = (),
        *,
        statement_timeout: float | None = None,
    ) -> list[tuple[bytes | None, ...]]:
        """Bind `settings`, run `sql` with `parameters` as `$1`…, return its rows in text format.

        A read is sent once more when its connection is lost. A result later than
        `statement_timeout` + `timeout` (s) is not waited for. When the caller is cancelled, the
        result is dropped; a statement that was sent still runs. Raises `QueueFull`,
        `ConnectionUnavailable`, and `psycopg.Error` by SQLSTATE.
        """
        limit = self._statement_timeout if statement_timeout is None else statement_timeout
        statements = encode_request(settings, limit, sql, parameters, read_only=self._read_only)
        use_names, retries_left = True, 2 if self._read_only else 0
        if self._closing:
            raise ConnectionUnavailable("closed")
        loop = asyncio.get_running_loop()
        received_at, queue_key = loop.time(), settings[0][1] if settings else ""
        while True:
            request = PendingRequest(
                loop.create_future(),
                statements,
                limit,
                use_names,
                not self._read_only,
                retries_left,
                received_at,
                queue_key,
            )
            outcome = await self._submit(request)
            if isinstance(outcome, Exception):
                raise outcome
            if outcome is None:
                retries_left = request.retries_left
                if not retries_left:  # lost: the next connection may be about to be lost, too
                    await asyncio.sleep(SLOW_STATEMENT_SECONDS)
            elif outcome.status != ExecStatus.FATAL_ERROR:
                return await read_rows(outcome)
            elif (
                request.use_names
                and outcome.error_field(DiagnosticField.SQLSTATE) in STALE_STATEMENT_STATES
            ):
                use_names = False  # its transaction was rolled back
            else:
                raise psycopg.errors.error_from_result(outcome)

    async def _submit(self, request: PendingRequest) -> Outcome:
        """Send a request, at once or when it is its turn, and return its outcome."""
        if self._closed:
            return ConnectionUnavailable("closed")
        if not self._queue and (connection := self._best_connection()):
            connection.send(request)
            return await request.outcome
        if (
            connection := self._reserved_connection()
        ) and request.queue_key not in self._busy_keys():
            connection.send(request)
            return await request.outcome
        request.queued_at = asyncio.get_running_loop().time()
        if evicted := self._queue.add(request.queue_key, request, self._queue_capacity()):
            evicted.finish(QueueFull(f"{len(self._queue)} requests are waiting"))
        try:
            return await request.outcome
        finally:
            self._queue.remove(request.queue_key, request)

    def _queue_capacity(self) -> float:
        """Return how many may wait: while connected, what can be sent within half the timeout."""
        durations = [c.seconds_per_request for c in self._connections if c.max_depth]
        if not durations:
            return self._max_waiting
        sendable = sum(self._timeout / 2 / max(seconds, 1e-6) for seconds in durations)
        return min(self._max_waiting, max(sendable, 2 * len(durations)))

    def _best_connection(self) -> PipelineConnection | None:
        """Return the connection with the fewest requests in flight that may take one more."""
        now, best, fewest = asyncio.get_running_loop().time(), None, self._max_depth
        for connection in self._connections:
            count = len(connection.pending)
            is_slow = count and now - connection.head_since >= SLOW_STATEMENT_SECONDS
            if count >= connection.window or connection.is_unusable or is_slow:
                continue
            batched = connection.corked * connection.seconds_per_request
            if self._read_only and connection.corked and batched < BATCH_SECONDS:
                return connection
            if count < fewest:
                best, fewest = connection, count
        return best

    def _reserved_connection(self) -> PipelineConnection | None:
        """Return the reserved connection when it is idle."""
        for connection in self._connections:
            if not (connection.max_depth or connection.pending or connection.is_unusable):
                return connection
        return None

    def _busy_keys(self) -> set[str]:
        return {r.queue_key for connection in self._connections for r in connection.pending}

    def _all_requests(self) -> list[PendingRequest]:
        sent = [request for connection in self._connections for request in connection.pending]
        return [*self._queue.items(), *sent]

    def _dispatch(self) -> None:
        """Send requests of the queue while there are connections for them."""
        while self._queue:
            request, connection = None, self._best_connection()
            if connection:
                request = self._queue.pop()
            elif connection := self._reserved_connection():
                request = self._queue.pop(self._busy_keys())
            if request is None or connection is None:
                return
            if not request.outcome.done():
                connection.send(request)

    async def _check_regularly(self) -> None:
        """Expire requests, close silent connections, move reads from behind slow statements.

        One timer for all: a timer per request would cost more than the rest of sending it.
        """
        while True:
            await asyncio.sleep(SLOW_STATEMENT_SECONDS)
            self._expire_queue()
            for connection in tuple(self._connections):
                connection.receive()  # first: this process itself may have been slow
                now = asyncio.get_running_loop().time()
                age = now - connection.head_since
                head = connection.pending[0] if connection.pending else None
                if head and age > head.statement_timeout + self._timeout:
                    connection.mark_lost("no response in time")
                elif len(connection.pending) > 1 and age > SLOW_STATEMENT_SECONDS:
                    self._move_reads(connection)
                self._expire_sent(connection, now)

    def _expire_queue(self) -> None:
        now = asyncio.get_running_loop().time()
        message = f"waited {self._timeout} s"
        for request in self._queue.items():
            if now - request.queued_at >= self._timeout:
                request.finish(
                    QueueFull(message)
                    if self._connections
                    else ConnectionUnavailable(f"{message}: {self.last_error}")
                )

    def _move_reads(self, slow: PipelineConnection) -> None:
        """Hand back reads that wait behind a slow statement, as many as another can take."""
        if other := self._best_connection():
            room = max(1, int(other.window) - len(other.pending))
            for request in islice(slow.pending, 1, 1 + room):
                if request.retries_left == 2:
                    request.finish(None, retries_left=1)

    def _expire_sent(self, connection: PipelineConnection, now: float) -> None:
        """Give up on requests that waited too long behind others.

        Behind a lock, each of many requests would otherwise wait for its own time limit in turn.
        """
        expired = 0
        for request in connection.pending:
            if now - request.received_at < request.statement_timeout + self._timeout:
                break
            others_served = any(c.last_result_at > request.received_at for c in self._connections)
            cause = QueueTimeout if others_served else ConnectionUnavailable
            request.finish(cause("no response in time", maybe_applied=request.is_write))
            expired += 1
        if expired and expired == len(connection.pending):
            connection.mark_lost("no response in time")

    def leave_old_address(self) -> None:
        """Close connections to another address than the current one, after their last result."""
        for connection in tuple(self._connections):
            if connection.address != self._conninfo():
                connection.retire()

    async def _connect(self, max_depth: int) -> PipelineConnection:
        address = self._conninfo()
        connection, server = await connect(address, self._trusts, CONNECT_TIMEOUT_SECONDS)
        return PipelineConnection(
            connection,
            self._connections,
            max_depth if server.is_direct else min(max_depth, 1),
            self._max_queue_delay,
            self._dispatch,
            use_names=server.is_direct,
            address=address,
        )

    async def _keep_connected(self, max_depth: int) -> None:
        """Open one connection, and open it again whenever it is lost."""
        loop, (pause, longest) = asyncio.get_running_loop(), RECONNECT_SECONDS
        while True:
            started = loop.time()
            try:
                connection = await self._connect(max_depth)
                self._dispatch()
                await connection.closed.wait()
                self.last_error = connection.close_reason
            except Exception as error:
                self.last_error = str(error).strip()
            if loop.time() - started > 2 * longest:
                pause = RECONNECT_SECONDS[0]
            await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311
            pause = min(2 * pause, longest)
