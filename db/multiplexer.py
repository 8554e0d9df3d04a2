"""Many requests in flight on a few PostgreSQL connections, each in a transaction of its own.

A request is all up to a Sync: bind the settings, run one statement. The server makes of it one
implicit transaction, so that the settings end with it and an error stays its own (PostgreSQL:
libpq pipeline mode). Limits are bound per request too, which holds behind every pooler.
"""

import asyncio
import os
import random
import re
import socket
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import DiagnosticField, ExecStatus
from psycopg.pq.abc import PGresult

from db.shares import Shares

NAMES = 200  # prepared statements per connection; what comes later is parsed each time
STUCK = 0.05  # from this age of a statement on, nothing new is sent behind it
TOGETHER = 0.002  # reads share a connection for so long; writes do not, to commit side by side
PAUSES = 0.02, 0.5  # first and longest, between two attempts to connect
ROWS = 2_000  # converted at a time, so that a large result lets others in
# Other SQL may outlast the Sync (set, begin, listen, declare) or wedge the pipeline (copy).
ALLOWED = re.compile(r"[\s(]*(select|insert|update|delete|merge|with|values|table)\b", re.I)
STALE = b"0A000", b"26000"  # the type of the result has changed; no such prepared statement

Step = tuple[bytes, list[bytes | None]]  # SQL and its parameters
NOTHING: Step = b"select", []
Answer = PGresult | Exception | None  # None: better send it again


class Busy(Exception):
    """More requests than fit: nothing was sent."""


class Away(Exception):
    """The database could not be reached, or went away: then a write has `maybe_done` its work."""

    def __init__(self, reason: str, *, maybe_done: bool = False) -> None:
        super().__init__(reason)
        self.maybe_done = maybe_done


@dataclass(frozen=True)
class Stats:
    connections: int
    in_flight: int
    waiting: int


@dataclass(slots=True, eq=False)
class _Flight:
    answer: asyncio.Future[Answer]
    steps: tuple[Step, Step]
    limit: float
    named: bool
    spare: int  # a read is sent again if it is slow (2) or its connection is lost (2, 1); -1: write
    began: float  # when the request came
    share: str  # whose it is, where requests must wait
    queued: float = 0.0  # since when it waits
    prepares: bool = False
    due: int = 0  # results
    result: PGresult | None = None

    def end(self, answer: Answer, spare: int = 0) -> None:
        if not self.answer.done():
            self.spare = spare
            self.answer.set_result(answer)


@dataclass(eq=False)
class _Link:
    """Owns one connection, which is one of `links` until it is lost."""

    connection: psycopg.AsyncConnection[tuple[object, ...]]
    links: "list[_Link]"
    depth: int  # 0: kept for shares that have nothing in flight
    ahead: float
    progressed: Callable[[], None]
    flights: deque[_Flight] = field(default_factory=deque)
    since: float = 0.0  # when the oldest flight became that
    pace: float = 0.001  # how long one takes, on average
    room: float = 0.0  # how many of them take `ahead`: one at least, `depth` at most
    names: dict[bytes, bytes] = field(default_factory=dict)
    ready: set[bytes] = field(default_factory=set)
    writing: bool = False
    suspect: bool = False
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    reason: str = ""

    def __post_init__(self) -> None:
        self.loop, self.pg = asyncio.get_running_loop(), self.connection.pgconn
        self.fd = self.pg.socket
        self.room = min(self.depth, self.ahead / self.pace)
        self.cork = _corkable(self.fd)
        self.held = 0  # flights of this turn of the event loop, not yet on their way
        self.pg.nonblocking = 1
        self.pg.enter_pipeline_mode()
        self.loop.add_reader(self.fd, self.receive)
        self.links.append(self)

    def send(self, flight: _Flight) -> None:
        if not self.flights:
            self.since = self.loop.time()
        self.flights.append(flight)
        self._hold()
        try:
            for sql, parameters in flight.steps:
                self._query(flight, sql, parameters)
            self.pg.pipeline_sync()
        except psycopg.Error as error:
            self.receive(str(error))
        else:
            self._flush()

    def _query(self, flight: _Flight, sql: bytes, parameters: list[bytes | None]) -> None:
        name, flight.due = self.names.get(sql), flight.due + 1
        if name is None and len(self.names) < NAMES:
            name = self.names[sql] = b"m%d" % len(self.names)
        if name is None or not flight.named:
            self.pg.send_query_params(sql, parameters)
            return
        if sql not in self.ready:
            self.pg.send_close_prepared(name)
            self.pg.send_prepare(name, sql)
            self.ready.add(sql)
            flight.prepares, flight.due = True, flight.due + 2
        self.pg.send_query_prepared(name, parameters)

    def _hold(self) -> None:
        """Hold back what this turn of the event loop sends, so that the server wakes up once.

        Only while it does: what waits for the window or for acknowledgements must not be held.
        """
        if not self.held and self.cork:
            self.cork.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
        if not self.held:
            self.loop.call_soon(self._push)
        self.held += 1

    def _push(self) -> None:
        self.held = 0
        if self.cork and not self.gone.is_set():
            self.cork.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)

    def _flush(self) -> None:
        try:
            full = bool(self.pg.flush())
        except psycopg.Error as error:
            self.receive(str(error))
            return
        if full and not self.writing:
            self.loop.add_writer(self.fd, self._flush)
        elif self.writing and not full:
            self.loop.remove_writer(self.fd)
        self.writing = full
        if not self.pg.is_busy():  # libpq reads, too, while it writes
            self.loop.call_soon(self.receive)

    def receive(self, lost: str = "") -> None:
        """Hand out the answers that have come, also those before the connection was `lost`."""
        if self.gone.is_set():
            return
        try:
            self.pg.consume_input()
        except psycopg.Error as error:
            lost = lost or str(error)
        nulls = 0  # two in a row: libpq knows of no more
        while self.flights and nulls < 2 and not self.pg.is_busy():
            nulls += 1
            if result := self.pg.get_result():
                nulls = 0
                self._accept(result, self.flights[0])
        if lost:
            self.lose(lost)
        self.progressed()

    def _accept(self, result: PGresult, flight: _Flight) -> None:
        status = result.status
        if status in (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK):
            flight.result, flight.due = result, flight.due - 1
        elif status == ExecStatus.FATAL_ERROR and not _ends_session(result):
            flight.result, flight.due = result, 0
            if flight.prepares or result.error_field(DiagnosticField.SQLSTATE) in STALE:
                self.ready.difference_update(sql for sql, _ in flight.steps)
        elif status == ExecStatus.PIPELINE_SYNC and flight.result and not flight.due:
            now, self.suspect = self.loop.time(), False
            self.pace += (now - self.since - self.pace) / 8
            self.room = min(self.depth, max(1, self.ahead / max(self.pace, 1e-6)))
            self.since = now
            self.flights.popleft().end(flight.result)
        elif status != ExecStatus.PIPELINE_ABORTED:
            self.lose(f"{ExecStatus(status).name}: {result.get_error_message()}")

    def lose(self, reason: str) -> None:
        if self.gone.is_set():
            return
        self.reason = reason.strip()
        self.gone.set()
        self.links.remove(self)
        self.loop.remove_reader(self.fd)
        self.loop.remove_writer(self.fd)
        if self.cork:
            self.cork.close()
        self.pg.finish()
        while self.flights:
            spare = (flight := self.flights.popleft()).spare
            flight.end(None if spare > 0 else Away(self.reason, maybe_done=spare < 0))
        for link in tuple(self.links):  # one is rarely lost alone: nothing new before it answers
            link.suspect = True
            if not link.flights:
                probe = self.loop.create_future()
                link.send(_Flight(probe, (NOTHING, NOTHING), 0, False, -1, self.loop.time(), ""))


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
        self._links: list[_Link] = []
        self._waiting: Shares[_Flight] = Shares()
        self._tasks: list[asyncio.Task[None]] = []
        self._closing, self._closed, self._reason = False, False, "not connected yet"

    @property
    def connected(self) -> bool:
        return bool(self._links)

    @property
    def stats(self) -> Stats:
        in_flight = sum(len(link.flights) for link in self._links)
        return Stats(len(self._links), in_flight, len(self._waiting))

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
        for link in tuple(self._links):
            link.lose("closed")
        for flight in self._waiting.items():
            flight.end(Away("closed"))

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
        bound = [_encoded(text) for setting in settings for text in setting]
        bind = _bind(len(settings), self._read_only), [*bound, b"%d" % max(1, limit * 1000)]
        steps = bind, (_statement(sql), [_encoded(text) for text in parameters])
        named, spare = self._prepare, 2 if self._read_only else -1
        if self._closing:
            raise Away("closed")
        loop = asyncio.get_running_loop()
        began, share = loop.time(), settings[0][1] if settings else ""
        while True:
            flight = _Flight(loop.create_future(), steps, limit, named, spare, began, share)
            answer = await self._fly(flight)
            if isinstance(answer, Exception):
                raise answer
            if answer is None:
                spare = flight.spare
                if not spare:  # lost, and it may not be lost again with the next to go
                    await asyncio.sleep(STUCK)
            elif answer.status != ExecStatus.FATAL_ERROR:
                return await _rows(answer)
            elif named and answer.error_field(DiagnosticField.SQLSTATE) in STALE:
                named = False  # its transaction was undone
            else:
                raise psycopg.errors.error_from_result(answer)

    async def _fly(self, flight: _Flight) -> Answer:
        if self._closed:
            return Away("closed")
        if not self._waiting.lines and (link := self._free()):
            link.send(flight)
            return await flight.answer
        if (link := self._kept()) and flight.share not in self._flying():
            link.send(flight)
            return await flight.answer
        flight.queued = asyncio.get_running_loop().time()
        if left := self._waiting.add(flight.share, flight, self._most()):
            left.end(Busy(f"{len(self._waiting)} requests wait already"))
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

    def _free(self) -> _Link | None:
        now, best, least = asyncio.get_running_loop().time(), None, self._depth
        for link in self._links:
            count = len(link.flights)
            if count >= link.room or link.suspect or (count and now - link.since >= STUCK):
                continue
            if self._read_only and link.held and link.held * link.pace < TOGETHER:
                return link
            if count < least:
                best, least = link, count
        return best

    def _kept(self) -> _Link | None:
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
            await asyncio.sleep(STUCK)
            for flight in self._waiting.items():
                if loop.time() - flight.queued >= self._timeout:
                    flight.end(Busy(late) if self._links else Away(f"{late}: {self._reason}"))
            for link in tuple(self._links):
                link.receive()  # first: it may be this process that was slow
                age = loop.time() - link.since
                if link.flights and age > link.flights[0].limit + self._timeout:
                    link.lose("no answer in time")
                elif len(link.flights) > 1 and age > STUCK and (other := self._free()):
                    room = max(1, int(other.room) - len(other.flights))
                    for flight in islice(link.flights, 1, 1 + room):
                        if flight.spare == 2:
                            flight.end(None, spare=1)
                self._expire(link)

    def _expire(self, link: _Link) -> None:
        """Behind a lock, each of many would wait its own limit in turn: no longer than together."""
        now, expired = asyncio.get_running_loop().time(), 0
        for flight in link.flights:
            if now - flight.began < flight.limit + self._timeout:
                break
            flight.end(Away("no answer in time", maybe_done=flight.spare < 0))
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
        loop, (pause, longest) = asyncio.get_running_loop(), PAUSES
        while True:
            began = loop.time()
            try:
                connection = await psycopg.AsyncConnection.connect(self._address(), autocommit=True)
                link = _Link(connection, self._links, depth, self._ahead, self._dispatch)
                self._dispatch()
                await link.gone.wait()
                self._reason = link.reason
            except Exception as error:
                self._reason = str(error).strip()
            if loop.time() - began > 2 * longest:
                pause = PAUSES[0]
            await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311
            pause = min(2 * pause, longest)


def _corkable(fd: int) -> socket.socket | None:
    """Return the socket if it can hold back what is sent to it (tcp(7), TCP_CORK), else None.

    Most of what a small request costs is waking up the server's process.
    """
    end = socket.socket(fileno=os.dup(fd))
    if hasattr(socket, "TCP_CORK") and end.family in (socket.AF_INET, socket.AF_INET6):
        return end
    end.close()
    return None


def _ends_session(error: PGresult) -> bool:
    severity = error.error_field(DiagnosticField.SEVERITY_NONLOCALIZED)
    severity = severity or error.error_field(DiagnosticField.SEVERITY)  # PgBouncer sends this one
    return severity in (b"FATAL", b"PANIC", None)  # None: libpq itself, the connection broke


@lru_cache
def _bind(settings: int, read_only: bool) -> bytes:
    """Return the SQL that binds so many settings and, as its last parameter, the time limit."""
    calls = [f"set_config(${2 * n + 1}, ${2 * n + 2}, true)" for n in range(settings)]
    calls.append(f"set_config('statement_timeout', ${2 * settings + 1}, true)")
    if read_only:
        calls.append("set_config('transaction_read_only', 'on', true)")
    return f"select {', '.join(calls)}".encode()


@lru_cache(1024)
def _statement(sql: str) -> bytes:
    if not ALLOWED.match(sql):
        raise psycopg.NotSupportedError(f"cannot run in a transaction of its own: {sql[:40]}")
    return _encoded(sql) or b""


def _encoded(text: str | None) -> bytes | None:
    if text is not None and "\0" in text:
        raise psycopg.DataError("PostgreSQL text cannot contain NUL")
    try:
        return None if text is None else text.encode()
    except UnicodeEncodeError as error:
        raise psycopg.DataError(f"not valid Unicode: {error}") from error


async def _rows(result: PGresult) -> list[tuple[bytes | None, ...]]:
    value, columns, count = result.get_value, range(result.nfields), result.ntuples
    rows: list[tuple[bytes | None, ...]] = []
    for start in range(0, count, ROWS):
        if start:
            await asyncio.sleep(0)
        some = range(start, min(start + ROWS, count))
        rows += [tuple([value(row, column) for column in columns]) for row in some]
    return rows
