"""Many requests in flight on a few PostgreSQL connections, each in a transaction of its own.

Which connection a request takes, who waits and for how long, and what is sent again; the
connections themselves: `pipeline`. Settings and limits are bound per request, which holds behind
every pooler.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
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
from db.connections.wire import decode_rows, encode_request

SLOW_STATEMENT_SECONDS = 0.05  # from this age of a statement on, nothing new is sent behind it
BATCH_SECONDS = 0.002  # reads share a connection for so long; writes do not, to commit side by side
RECONNECT_SECONDS = 0.02, 0.5  # first and longest, between two attempts to connect


class QueueFull(Exception):
    """More requests than fit: nothing was sent."""


@dataclass(frozen=True)
class ConnectionStats:
    connections: int
    in_flight: int
    waiting: int


class Multiplexer:
    def __init__(
        self,
        conninfo: str | Callable[[], str],
        *,
        connections: int = 2,
        express: bool = False,
        depth: int = 64,
        ahead: float = 0.01,
        waiting: int = 256,
        timeout: float = 2.5,
        statement_timeout: float = 2.0,
        read_only: bool,
        prepare: bool = True,
    ) -> None:
        """Send up to `depth` requests per connection; up to `waiting` more wait for `timeout`.

        Slow statements lower both: what is sent cannot be put in order again, so no more is sent
        than runs within `ahead`, and no more waits than can be sent within half of `timeout`.
        Who waits takes turns, by the first value bound; with `express` there is one connection
        more, for those of whom nothing is in flight.

        Behind a pooler in transaction mode `depth` must be 1, as it is without `prepare`:
        PgBouncer may part a request from its settings while an earlier one runs (its issue 759).
        Before PgBouncer 1.21 `prepare` must be False.
        """
        self._conninfo = conninfo if callable(conninfo) else lambda: conninfo
        self._connections, self._express = connections, express
        self._depth, self._most_waiting = depth if prepare else 1, waiting
        self._ahead = ahead
        self._timeout, self._statement_timeout = timeout, statement_timeout
        self._read_only, self._prepare = read_only, prepare
        self._links: list[PipelineConnection] = []
        self._waiting: FairQueue[PendingRequest] = FairQueue()
        self._tasks: list[asyncio.Task[None]] = []
        self._closing, self._closed, self._reason = False, False, "not connected yet"

    @property
    def connected(self) -> bool:
        return bool(self._links)

    @property
    def stats(self) -> ConnectionStats:
        in_flight = sum(len(link.flights) for link in self._links)
        return ConnectionStats(len(self._links), in_flight, len(self._waiting))

    async def open(self) -> None:
        """Start to connect, and return at once, also when the database is away."""
        depths = [self._depth] * self._connections + [0] * self._express
        work = self._watch(), *[self._keep(depth) for depth in depths]
        self._tasks = [asyncio.create_task(task) for task in work]

    async def close(self, timeout: float = 5) -> None:  # noqa: ASYNC109
        """Finish what was accepted, cancel what still runs after `timeout`, disconnect."""
        self._closing = True
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout
        while (left := end - loop.time()) > 0:
            flights = [
                *self._waiting.items(),
                *[one for link in self._links for one in link.flights],
            ]
            if not (answers := [one.answer for one in flights if not one.answer.done()]):
                break
            await asyncio.wait(answers, timeout=left)
        self._closed = True
        for task in self._tasks:
            task.cancel()
        running = [link.connection for link in self._links if link.flights]
        cancelled = [connection.cancel_safe(timeout=1) for connection in running]
        await asyncio.gather(*cancelled, *self._tasks, return_exceptions=True)
        self._tasks.clear()  # a connection that was being made ends with its task
        for link in tuple(self._links):
            link.lose("closed")
        for flight in self._waiting.items():
            flight.end(ConnectionUnavailable("closed"))

    async def fetch(
        self,
        settings: Sequence[tuple[str, str]],
        sql: str,
        parameters: Sequence[str | None] = (),
        *,
        statement_timeout: float | None = None,
    ) -> list[tuple[bytes | None, ...]]:
        """Bind `settings`, run `sql` with `$1`… bound to `parameters`, return its rows as text.

        When cancelled, the result is dropped; a statement that was sent runs on. An answer later
        than `statement_timeout` + `timeout` is not waited for. Reads are sent once more
        when theirs is lost. Raises `Busy`, `Away` and `psycopg.Error` by SQLSTATE.
        """
        limit = self._statement_timeout if statement_timeout is None else statement_timeout
        sent = encode_request(settings, limit, sql, parameters, read_only=self._read_only)
        named, spare = self._prepare, 2 if self._read_only else -1
        if self._closing:
            raise ConnectionUnavailable("closed")
        loop = asyncio.get_running_loop()
        began, share = loop.time(), settings[0][1] if settings else ""
        while True:
            flight = PendingRequest(loop.create_future(), sent, limit, named, spare, began, share)
            answer = await self._fly(flight)
            if isinstance(answer, Exception):
                raise answer
            if answer is None:
                spare = flight.spare
                if not spare:  # lost, and it may not be lost again with the next to go
                    await asyncio.sleep(SLOW_STATEMENT_SECONDS)
            elif answer.status != ExecStatus.FATAL_ERROR:
                return await decode_rows(answer)
            elif named and answer.error_field(DiagnosticField.SQLSTATE) in STALE_STATEMENT_STATES:
                named = False  # its transaction was undone
            else:
                raise psycopg.errors.error_from_result(answer)

    async def _fly(self, flight: PendingRequest) -> Outcome:
        if self._closed:
            return ConnectionUnavailable("closed")
        if not self._waiting.lines and (link := self._free()):
            link.send(flight)
            return await flight.answer
        if (link := self._kept()) and flight.share not in self._flying():
            link.send(flight)
            return await flight.answer
        flight.queued = asyncio.get_running_loop().time()
        if left := self._waiting.add(flight.share, flight, self._most()):
            left.end(QueueFull(f"{len(self._waiting)} requests wait already"))
        try:
            return await flight.answer
        finally:
            self._waiting.remove(flight.share, flight)

    def _most(self) -> float:
        """How many may wait: with connections, those that can be sent in half of the time."""
        paces = [link.pace for link in self._links if link.depth]
        if not paces:
            return self._most_waiting
        sent = sum(self._timeout / 2 / max(pace, 1e-6) for pace in paces)
        return min(self._most_waiting, max(sent, 2 * len(paces)))

    def _free(self) -> PipelineConnection | None:
        now, best, least = asyncio.get_running_loop().time(), None, self._depth
        for link in self._links:
            count = len(link.flights)
            if (
                count >= link.room
                or link.suspect
                or (count and now - link.since >= SLOW_STATEMENT_SECONDS)
            ):
                continue
            if self._read_only and link.held and link.held * link.pace < BATCH_SECONDS:
                return link
            if count < least:
                best, least = link, count
        return best

    def _kept(self) -> PipelineConnection | None:
        """The express connection, when it is idle."""
        for link in self._links:
            if not (link.depth or link.flights or link.suspect):
                return link
        return None

    def _flying(self) -> set[str]:
        return {flight.share for link in self._links for flight in link.flights}

    def _dispatch(self) -> None:
        while self._waiting.lines:
            flight, link = None, self._free()
            if link:
                flight = self._waiting.pop()
            elif link := self._kept():
                flight = self._waiting.pop(self._flying())
            if flight is None or link is None:
                return
            if not flight.answer.done():
                link.send(flight)

    async def _watch(self) -> None:
        """End what took too long and connections gone silent; move reads from behind slow ones.

        That a tick serves them all spares each request a timer of its own.
        """
        loop, late = asyncio.get_running_loop(), f"waited {self._timeout} s"
        while True:
            await asyncio.sleep(SLOW_STATEMENT_SECONDS)
            for flight in self._waiting.items():
                if loop.time() - flight.queued >= self._timeout:
                    flight.end(
                        QueueFull(late)
                        if self._links
                        else ConnectionUnavailable(f"{late}: {self._reason}")
                    )
            for link in tuple(self._links):
                link.receive()  # first: it may be this process that was slow
                age = loop.time() - link.since
                if link.flights and age > link.flights[0].limit + self._timeout:
                    link.lose("no answer in time")
                elif (
                    len(link.flights) > 1
                    and age > SLOW_STATEMENT_SECONDS
                    and (other := self._free())
                ):
                    room = max(1, int(other.room) - len(other.flights))
                    for flight in islice(link.flights, 1, 1 + room):
                        if flight.spare == 2:
                            flight.end(None, spare=1)
                self._expire(link)

    def _expire(self, link: PipelineConnection) -> None:
        """Behind a lock, each of many would wait its own limit in turn: no longer than together."""
        now, expired = asyncio.get_running_loop().time(), 0
        for flight in link.flights:
            if now - flight.began < flight.limit + self._timeout:
                break
            cause = (
                QueueTimeout
                if any(one.heard > flight.began for one in self._links)
                else ConnectionUnavailable
            )
            flight.end(cause("no answer in time", maybe_done=flight.spare < 0))
            expired += 1
        if expired and expired == len(link.flights):
            link.lose("no answer in time")

    def _address(self) -> str:
        """Return where to connect. A pooler refuses options, and keeps nothing prepared anyway.

        Without the option the server makes a plan for each request of a list: not knowing `limit`,
        it takes the plan that serves all for the dearer one.
        """
        conninfo = make_conninfo(self._conninfo(), connect_timeout=5, client_encoding="utf8")
        if not self._prepare:
            return conninfo
        given = conninfo_to_dict(conninfo).get("options") or ""
        return make_conninfo(conninfo, options=f"{given} -c plan_cache_mode=force_generic_plan")

    async def _keep(self, depth: int) -> None:
        """Keep one connection, for ever."""
        loop, (pause, longest) = asyncio.get_running_loop(), RECONNECT_SECONDS
        while True:
            began = loop.time()
            try:
                connection = await psycopg.AsyncConnection.connect(self._address(), autocommit=True)
                link = PipelineConnection(
                    connection, self._links, depth, self._ahead, self._dispatch
                )
                self._dispatch()
                await link.gone.wait()
                self._reason = link.reason
            except Exception as error:
                self._reason = str(error).strip()
            if loop.time() - began > 2 * longest:
                pause = RECONNECT_SECONDS[0]
            await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311
            pause = min(2 * pause, longest)
