"""One connection to PostgreSQL with many requests in flight, each in a transaction of its own.

A request is all up to a Sync: bind the settings, run one statement. The server makes of it one
implicit transaction, so that the settings end with it and an error stays its own (PostgreSQL:
libpq pipeline mode).
"""

import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import psycopg
from psycopg.pq import DiagnosticField, ExecStatus
from psycopg.pq.abc import PGresult

MAX_PREPARED = (
    200  # prepared statements per connection; one more takes the place of that unused longest
)
STALE_STATEMENT_STATES = (
    b"0A000",
    b"26000",
)  # the type of the result has changed; no such prepared statement

Step = tuple[bytes, list[bytes | None]]  # SQL and its parameters
EMPTY_STATEMENT: Step = b"select", []
Outcome = PGresult | Exception | None  # None: better send it again


class ConnectionUnavailable(Exception):
    """The database could not be reached, or went away: then a write has `maybe_done` its work."""

    def __init__(self, reason: str, *, maybe_done: bool = False) -> None:
        super().__init__(reason)
        self.maybe_done = maybe_done


class QueueTimeout(ConnectionUnavailable):
    """Away for this request alone: the database answered others, and these took its time."""


@dataclass(slots=True, eq=False)
class PendingRequest:
    answer: asyncio.Future[Outcome]
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

    def end(self, answer: Outcome, spare: int = 0) -> None:
        if not self.answer.done():
            self.spare = spare
            self.answer.set_result(answer)


@dataclass(eq=False)
class PipelineConnection:
    """Owns one connection, which is one of `links` until it is lost."""

    connection: psycopg.AsyncConnection[tuple[object, ...]]
    links: "list[PipelineConnection]"
    depth: int  # 0: kept for shares that have nothing in flight
    ahead: float
    progressed: Callable[[], None]
    flights: deque[PendingRequest] = field(default_factory=deque)
    since: float = 0.0  # when the oldest flight became that
    heard: float = 0.0  # when one was last answered
    pace: float = 0.001  # how long one takes, on average
    room: float = 0.0  # how many of them take `ahead`: one at least, `depth` at most
    names: dict[bytes, bytes] = field(default_factory=dict)  # in the order of their last use
    named: int = 0
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

    def send(self, flight: PendingRequest) -> None:
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

    def _query(self, flight: PendingRequest, sql: bytes, parameters: list[bytes | None]) -> None:
        flight.due += 1
        if not flight.named:
            self.pg.send_query_params(sql, parameters)
            return
        name = self.names[sql] = self.names.pop(sql, b"") or self._new_name(flight)
        if sql not in self.ready:
            self.pg.send_close_prepared(name)
            self.pg.send_prepare(name, sql)
            self.ready.add(sql)
            flight.prepares, flight.due = True, flight.due + 2
        self.pg.send_query_prepared(name, parameters)

    def _new_name(self, flight: PendingRequest) -> bytes:
        """Return a name that no statement had: what an error skipped must not leave one to another.

        Of too many statements the one unused longest goes, or a few clients that ask for all there
        are would have everybody else's parsed each time.
        """
        if len(self.names) == MAX_PREPARED:
            unused = next(iter(self.names))
            self.pg.send_close_prepared(self.names.pop(unused))
            self.ready.discard(unused)
            flight.due += 1
        self.named += 1
        return b"m%d" % self.named

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

    def _accept(self, result: PGresult, flight: PendingRequest) -> None:
        status = result.status
        if status in (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK):
            flight.result, flight.due = result, flight.due - 1
        elif status == ExecStatus.FATAL_ERROR and not _ends_session(result):
            flight.result, flight.due = result, 0
            if (
                flight.prepares
                or result.error_field(DiagnosticField.SQLSTATE) in STALE_STATEMENT_STATES
            ):
                self.ready.difference_update(sql for sql, _ in flight.steps)
        elif status == ExecStatus.PIPELINE_SYNC and flight.result and not flight.due:
            now, self.suspect = self.loop.time(), False
            self.pace += (now - self.since - self.pace) / 8
            self.room = min(self.depth, max(1, self.ahead / max(self.pace, 1e-6)))
            self.since = self.heard = now
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
            flight.end(
                None if spare > 0 else ConnectionUnavailable(self.reason, maybe_done=spare < 0)
            )
        for link in tuple(self.links):  # one is rarely lost alone: nothing new before it answers
            link.suspect = True
            if not link.flights:
                probe = self.loop.create_future()
                link.send(
                    PendingRequest(
                        probe,
                        (EMPTY_STATEMENT, EMPTY_STATEMENT),
                        0,
                        False,
                        -1,
                        self.loop.time(),
                        "",
                    )
                )


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
