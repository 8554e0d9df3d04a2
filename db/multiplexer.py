"""Many requests in flight on a few PostgreSQL connections, each in a transaction of its own.

A request is everything up to a Sync: bind the settings, run one statement. The server makes that
one implicit transaction, so that the settings end with it and an error stays with its request
(https://www.postgresql.org/docs/current/libpq-pipeline-mode.html). Limits, too, are bound per
request: that holds behind every pooler, and costs a microsecond.
"""

import asyncio
import itertools
import logging
import random
import re
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.errors import error_from_result
from psycopg.pq import DiagnosticField, ExecStatus
from psycopg.pq.abc import PGresult

NAMES = 200  # prepared statements of one connection; what comes later is parsed each time
STUCK = 0.05  # from this age of a statement on, nothing new is sent behind it
RETRY = 0.02, 0.5  # first and longest pause between two attempts to connect
ROWS = 2_000  # converted at a time, so that a large result lets others in

# What else SQL has may outlast the Sync (set, begin, listen, declare) or end the pipeline (copy).
ALLOWED = re.compile(r"[\s(]*(select|insert|update|delete|merge|with|values|table)\b", re.I)
STALE = {b"0A000", b"26000"}  # the result's type has changed; no such prepared statement
DONE = {ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK}

log = logging.getLogger(__name__)


class Busy(Exception):
    """More requests than fit: nothing was sent, safe to retry."""


class Away(Exception):
    """The database cannot be reached, or went away; `maybe_done` if a write may have happened."""

    def __init__(self, reason: str, *, maybe_done: bool = False) -> None:
        super().__init__(reason)
        self.maybe_done = maybe_done


@dataclass(frozen=True)
class Stats:
    connections: int
    in_flight: int
    waiting: int


@dataclass(slots=True, eq=False)
class _Request:
    answer: asyncio.Future[PGresult | Exception]
    steps: tuple[tuple[bytes, list[bytes | None]], ...]  # SQL and parameters of bind, statement
    limit: float
    named: bool
    retried: bool = False
    moved: bool = False
    flights: int = 0


@dataclass(slots=True, eq=False)
class _Flight:
    """A request on one connection."""

    request: _Request
    named: bool
    prepared: list[bytes] = field(default_factory=list)
    result: PGresult | None = None
    error: PGresult | None = None


def _ends_session(error: PGresult) -> bool:
    severity = error.error_field(DiagnosticField.SEVERITY_NONLOCALIZED)
    severity = severity or error.error_field(DiagnosticField.SEVERITY)  # PgBouncer sends this one
    return severity in (b"FATAL", b"PANIC", None)  # None: libpq itself, the connection broke


@lru_cache
def _bind(settings: int, read_only: bool) -> bytes:
    """Return the SQL that binds so many settings and, as its last parameter, the time limit."""
    pairs = [f"set_config(${2 * n + 1}, ${2 * n + 2}, true)" for n in range(settings)]
    pairs.append(f"set_config('statement_timeout', ${2 * settings + 1}, true)")
    if read_only:
        pairs.append("set_config('transaction_read_only', 'on', true)")
    return f"select {', '.join(pairs)}".encode()


@lru_cache(1024)
def _statement(sql: str) -> bytes:
    if not ALLOWED.match(sql):
        raise psycopg.NotSupportedError(f"not a query of one transaction: {sql[:40]}")
    return _encoded(sql)


def _encoded(text: str) -> bytes:
    if "\0" in text:
        raise psycopg.DataError("PostgreSQL text cannot contain NUL")
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise psycopg.DataError(f"not valid Unicode: {error}") from error


async def _rows(result: PGresult) -> list[tuple[bytes | None, ...]]:
    value, columns, end = result.get_value, range(result.nfields), result.ntuples
    rows: list[tuple[bytes | None, ...]] = []
    for start in range(0, end, ROWS):
        if start:
            await asyncio.sleep(0)
        some = range(start, min(start + ROWS, end))
        rows += [tuple([value(row, column) for column in columns]) for row in some]
    return rows


class _Link:
    """Owns one connection; `progressed` is called after answers, `lost` once, at its end."""

    def __init__(
        self,
        connection: psycopg.AsyncConnection[tuple[object, ...]],
        progressed: Callable[[], None],
        lost: Callable[["_Link", str], None],
    ) -> None:
        self.connection, self.flights = connection, deque[_Flight]()
        self.since = 0.0  # when the oldest flight became that
        self.gone = asyncio.Event()
        self._progressed, self._lost = progressed, lost
        self._loop = asyncio.get_running_loop()
        self._names: dict[bytes, bytes] = {}
        self._dropped: list[bytes] = []
        self._numbers = itertools.count()
        self._writing = False
        self._pg = connection.pgconn
        self._fd = self._pg.socket
        self._pg.nonblocking = 1
        self._pg.enter_pipeline_mode()
        self._loop.add_reader(self._fd, self.receive)

    def send(self, request: _Request) -> None:
        flight = _Flight(request, request.named)
        request.flights += 1
        if not self.flights:
            self.since = self._loop.time()
        self.flights.append(flight)
        try:
            while self._dropped:
                self._pg.send_close_prepared(self._dropped.pop())
            for sql, parameters in request.steps:
                if name := self._name(sql, flight):
                    self._pg.send_query_prepared(name, parameters)
                else:
                    self._pg.send_query_params(sql, parameters)
            self._pg.pipeline_sync()
        except psycopg.Error as error:
            return self._fail(error)
        self._flush()

    def _name(self, sql: bytes, flight: _Flight) -> bytes | None:
        if not flight.named:
            return None
        name = self._names.get(sql)
        if name is None and len(self._names) < NAMES:
            name = self._names[sql] = b"m%d" % next(self._numbers)
            self._pg.send_prepare(name, sql)
            flight.prepared.append(sql)
        return name

    def _flush(self) -> None:
        try:
            full = bool(self._pg.flush())
            # While it writes, libpq also reads, and then the socket never becomes readable.
            unread = not self._pg.is_busy()
        except psycopg.Error as error:
            return self._fail(error)
        if full and not self._writing:
            self._loop.add_writer(self._fd, self._flush)
        elif self._writing and not full:
            self._loop.remove_writer(self._fd)
        self._writing = full
        if unread:
            self._loop.call_soon(self.receive)

    def receive(self) -> None:
        """Hand out the answers that have arrived."""
        if self.gone.is_set():
            return
        broken = None
        try:
            self._pg.consume_input()
        except psycopg.Error as error:
            broken = str(error)  # what came before the end still counts
        now = self._loop.time()
        while self.flights and not self._pg.is_busy():
            result, flight = self._pg.get_result(), self.flights[0]
            if result is None:
                continue
            if result.status in DONE:
                flight.result = result
            elif result.status == ExecStatus.PIPELINE_SYNC:
                self.since = now
                self._finish(self.flights.popleft())
            elif result.status == ExecStatus.FATAL_ERROR:
                if _ends_session(result):
                    return self.lose(result.get_error_message())
                flight.error = result
            elif result.status != ExecStatus.PIPELINE_ABORTED:
                flight.request.retried = True
                return self.lose(f"a result of the unexpected kind {result.status}")
        if broken:
            return self.lose(broken)
        self._progressed()

    def _finish(self, flight: _Flight) -> None:
        request, answer = flight.request, flight.error or flight.result
        request.flights -= 1
        if flight.error:
            state = flight.error.error_field(DiagnosticField.SQLSTATE)
            stale = flight.named and state in STALE
            for sql in [sql for sql, _ in request.steps] if stale else flight.prepared:
                if name := self._names.pop(sql, None):
                    self._dropped.append(name)
            if stale and not request.answer.done():  # all of it was rolled back
                request.named = False
                return self.send(request)
        if answer and not request.answer.done():
            request.answer.set_result(answer)

    def _fail(self, error: psycopg.Error) -> None:
        self.receive()  # what came before the end still counts
        self.lose(str(error))

    def lose(self, reason: str) -> None:
        if self.gone.is_set():
            return
        self.gone.set()
        self._loop.remove_reader(self._fd)
        self._loop.remove_writer(self._fd)
        self._pg.finish()
        self._lost(self, reason)
        self.flights.clear()


class Multiplexer:
    def __init__(
        self,
        conninfo: str,
        *,
        connections: int = 2,
        depth: int = 64,
        waiting: int = 256,
        timeout: float = 2.5,
        statement_timeout: float = 2.0,
        read_only: bool,
        prepare: bool = True,
    ) -> None:
        """`depth`: in flight per connection; `timeout`: how long a request waits to be sent.

        `prepare=False` behind PgBouncer before 1.21 or without max_prepared_statements. Raises
        `psycopg.ProgrammingError` for a malformed `conninfo`.
        """
        given = {"connect_timeout": 5} | conninfo_to_dict(conninfo)
        self._conninfo = make_conninfo("", **given | {"client_encoding": "utf8"})
        self._connections, self._depth, self._most_waiting = connections, depth, waiting
        self._timeout, self._statement_timeout = timeout, statement_timeout
        self._read_only, self._prepare = read_only, prepare
        self._links: list[_Link] = []
        self._keepers: list[asyncio.Task[None]] = []
        self._waiting: OrderedDict[_Request, asyncio.TimerHandle] = OrderedDict()
        self._watching: asyncio.TimerHandle | None = None
        self._closing = False
        self._reason = "not connected yet"

    @property
    def connected(self) -> bool:
        return bool(self._links)

    @property
    def stats(self) -> Stats:
        in_flight = sum(len(link.flights) for link in self._links)
        return Stats(len(self._links), in_flight, len(self._waiting))

    async def open(self) -> None:
        """Start to connect, and return at once, also when the database is away."""
        self._keepers = [asyncio.create_task(self._keep()) for _ in range(self._connections)]

    async def close(self, timeout: float = 5) -> None:
        """Finish what was accepted, cancel what still runs after `timeout`, disconnect."""
        self._closing = True
        flights = [flight.request for link in self._links for flight in link.flights]
        if answers := [request.answer for request in (*flights, *self._waiting)]:
            await asyncio.wait(answers, timeout=timeout)
        for keeper in self._keepers:
            keeper.cancel()
        running = [link.connection for link in self._links if link.flights]
        cancelled = (connection.cancel_safe(timeout=1) for connection in running)
        await asyncio.gather(*cancelled, *self._keepers, return_exceptions=True)
        for link in tuple(self._links):
            link.lose("closed")
        for request in tuple(self._waiting):
            self._refuse(request, Away("closed"))
        if self._watching:
            self._watching.cancel()

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
        than `statement_timeout` + `timeout` counts as a lost connection. Reads are sent once more
        when theirs is lost. Raises `Busy`, `Away` and `psycopg.Error` by SQLSTATE.
        """
        if self._closing:
            raise Away("closed")
        limit = self._statement_timeout if statement_timeout is None else statement_timeout
        bound: list[bytes | None] = [_encoded(text) for setting in settings for text in setting]
        bound.append(b"%d" % max(1, round(limit * 1000)))
        bind = _bind(len(settings), self._read_only), bound
        statement = (
            _statement(sql),
            [None if text is None else _encoded(text) for text in parameters],
        )
        if len(parameters) > 65_535:
            raise psycopg.DataError("more than 65535 parameters")
        answer = asyncio.get_running_loop().create_future()
        request = _Request(answer, (bind, statement), limit, self._prepare)
        if not self._waiting and (link := self._free()):
            self._send(link, request)
        elif len(self._waiting) >= self._most_waiting:
            raise Busy(f"{len(self._waiting)} requests wait already")
        else:
            self._enqueue(request)
        try:
            result = await answer
        finally:
            if timer := self._waiting.pop(request, None):
                timer.cancel()
        if isinstance(result, Exception):
            raise result
        if result.status == ExecStatus.FATAL_ERROR:
            raise error_from_result(result)
        return await _rows(result)

    def _free(self) -> _Link | None:
        now, best, least = asyncio.get_running_loop().time(), None, self._depth
        for link in self._links:
            count = len(link.flights)
            if count < least and (not count or now - link.since < STUCK):
                best, least = link, count
        return best

    def _send(self, link: _Link, request: _Request) -> None:
        link.send(request)
        if not self._watching:
            self._watching = asyncio.get_running_loop().call_later(STUCK, self._watch)

    def _enqueue(self, request: _Request) -> None:
        loop = asyncio.get_running_loop()
        self._waiting[request] = loop.call_later(self._timeout, self._expire, request)

    def _expire(self, request: _Request) -> None:
        waited = f"waited {self._timeout} s"
        away = Away(f"{waited}; {self._reason}")
        self._refuse(request, Busy(waited) if self._links else away)

    def _refuse(self, request: _Request, error: Exception) -> None:
        if timer := self._waiting.pop(request, None):
            timer.cancel()
        if not request.answer.done():
            request.answer.set_result(error)

    def _dispatch(self) -> None:
        while self._waiting and (link := self._free()):
            request, timer = self._waiting.popitem(last=False)
            timer.cancel()
            if not request.answer.done():
                self._send(link, request)

    def _watch(self) -> None:
        """End connections that have gone silent, and move reads from behind a slow one."""
        loop = asyncio.get_running_loop()
        self._watching = None
        for link in tuple(self._links):
            link.receive()  # first: it may be this process that was slow
            age = loop.time() - link.since
            if link.flights and age > link.flights[0].request.limit + self._timeout:
                link.lose("no answer in time")
            elif self._read_only and age > STUCK:
                for flight in itertools.islice(tuple(link.flights), 1, None):
                    request = flight.request
                    if not (request.moved or request.answer.done()) and (other := self._free()):
                        request.moved = True
                        other.send(request)
        if any(link.flights for link in self._links):
            self._watching = loop.call_later(STUCK, self._watch)

    def _lost(self, link: _Link, reason: str) -> None:
        self._links.remove(link)
        self._reason = reason.strip()
        for flight in reversed(link.flights):
            request = flight.request
            request.flights -= 1
            if request.flights or request.answer.done():
                continue
            if self._read_only and not (request.retried or self._closing):
                request.retried = True
                self._enqueue(request)
                self._waiting.move_to_end(request, last=False)
            else:
                self._refuse(request, Away(self._reason, maybe_done=not self._read_only))
        asyncio.get_running_loop().call_soon(self._dispatch)

    async def _keep(self) -> None:
        """Keep one connection, for ever."""
        loop = asyncio.get_running_loop()
        pause, longest = RETRY
        while True:
            began = loop.time()
            try:
                connection = await psycopg.AsyncConnection.connect(self._conninfo, autocommit=True)
                link = _Link(connection, self._dispatch, self._lost)
                self._links.append(link)
                self._dispatch()
                await link.gone.wait()
            except (psycopg.Error, OSError) as error:
                self._reason = str(error).strip()
            if loop.time() - began > 2 * longest:
                pause = RETRY[0]
            if pause == RETRY[0]:
                log.warning("no connection to PostgreSQL: %s", self._reason)
            await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311
            pause = min(2 * pause, longest)
