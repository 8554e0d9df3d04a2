"""One connection to PostgreSQL in pipeline mode: many requests in flight, each its own transaction.

A request is everything up to a Sync message: bind the settings, then run one statement. The server
runs it as one implicit transaction, so the settings end with it and an error affects no other
request (https://www.postgresql.org/docs/current/libpq-pipeline-mode.html).
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

MAX_PREPARED = 200  # statements per connection; the least recently used one makes room
# The result type of a prepared statement has changed; the prepared statement does not exist.
STALE_STATEMENT_STATES = (b"0A000", b"26000")

Statement = tuple[bytes, list[bytes | None]]  # SQL and its parameters
EMPTY_STATEMENT: Statement = b"select", []
Outcome = PGresult | Exception | None  # None: send it again


class ConnectionUnavailable(Exception):
    """The database cannot be reached, or the connection was lost.

    `maybe_applied` says that a write may have been committed.
    """

    def __init__(self, reason: str, *, maybe_applied: bool = False) -> None:
        super().__init__(reason)
        self.maybe_applied = maybe_applied


class QueueTimeout(ConnectionUnavailable):
    """The request waited too long behind others, which the database did answer."""


@dataclass(slots=True, eq=False)
class PendingRequest:
    """A request that waits to be sent, or for its result. Times are those of the event loop."""

    outcome: asyncio.Future[Outcome]
    statements: tuple[Statement, Statement]  # the one that binds the settings, and the request's
    statement_timeout: float
    use_names: bool  # of prepared statements
    is_write: bool
    retries_left: int  # of a read: 2 when it may also be moved from a slow connection
    received_at: float
    queue_key: str
    queued_at: float = 0.0
    prepares: bool = False
    results_due: int = 0
    result: PGresult | None = None

    def finish(self, outcome: Outcome, *, retries_left: int = 0) -> None:
        """Set the outcome that a task waits for, unless it is set already."""
        if not self.outcome.done():
            self.retries_left = retries_left
            self.outcome.set_result(outcome)


@dataclass(eq=False)
class PipelineConnection:
    """Owns one connection; this object is in `siblings` until the connection is lost."""

    connection: psycopg.AsyncConnection[tuple[object, ...]]
    siblings: "list[PipelineConnection]"
    max_depth: int  # 0: reserved for queue keys that have nothing in flight
    max_queue_delay: float  # seconds of work that may be sent ahead
    on_progress: Callable[[], None]
    use_names: bool  # of prepared statements
    address: str = field(repr=False)  # contains the password
    pending: deque[PendingRequest] = field(default_factory=deque)
    head_since: float = 0.0  # when the oldest pending request became the oldest
    last_result_at: float = 0.0
    seconds_per_request: float = 0.001  # moving average
    window: float = 0.0  # how many requests fit into `max_queue_delay`, from 1 to `max_depth`
    names: dict[bytes, bytes] = field(default_factory=dict)  # by SQL, least recently used first
    names_given: int = 0
    prepared: set[bytes] = field(default_factory=set)
    is_writing: bool = False
    is_suspect: bool = False  # a sibling was lost: send nothing until this one answers
    is_retired: bool = False
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    close_reason: str = ""

    def __post_init__(self) -> None:
        self.loop, self.pg = asyncio.get_running_loop(), self.connection.pgconn
        self.fd = self.pg.socket
        self.window = min(self.max_depth, self.max_queue_delay / self.seconds_per_request)
        self.cork_socket = _corkable(self.fd)
        self.corked = 0  # requests of this turn of the event loop that are held back
        self.pg.nonblocking = 1
        self.pg.enter_pipeline_mode()
        self.loop.add_reader(self.fd, self.receive)
        self.siblings.append(self)

    @property
    def is_unusable(self) -> bool:
        """Whether it takes no request now."""
        return self.is_suspect or self.is_retired

    def retire(self) -> None:
        """Take no more requests, and disconnect after the last result."""
        self.is_retired = True
        if not self.pending:
            self._disconnect("retired")

    def send(self, request: PendingRequest) -> None:
        """Send a request behind those that are pending."""
        if not self.pending:
            self.head_since = self.loop.time()
        self.pending.append(request)
        request.use_names &= self.use_names
        self._cork()
        try:
            for sql, parameters in request.statements:
                self._query(request, sql, parameters)
            self.pg.pipeline_sync()
        except psycopg.Error as error:
            self.receive(str(error))
        else:
            self._flush()

    def _query(self, request: PendingRequest, sql: bytes, parameters: list[bytes | None]) -> None:
        request.results_due += 1
        if not request.use_names:
            self.pg.send_query_params(sql, parameters)
            return
        name = self.names[sql] = self.names.pop(sql, b"") or self._new_name(request)
        if sql not in self.prepared:
            self.pg.send_close_prepared(name)
            self.pg.send_prepare(name, sql)
            self.prepared.add(sql)
            request.prepares, request.results_due = True, request.results_due + 2
        self.pg.send_query_prepared(name, parameters)

    def _new_name(self, request: PendingRequest) -> bytes:
        """Return a new name: after an error, the server may still know an old one's statement.

        The least recently used name makes room: a client that sends many kinds of lists must not
        evict the statements that all others use.
        """
        if len(self.names) == MAX_PREPARED:
            unused = next(iter(self.names))
            self.pg.send_close_prepared(self.names.pop(unused))
            self.prepared.discard(unused)
            request.results_due += 1
        self.names_given += 1
        return b"m%d" % self.names_given

    def _cork(self) -> None:
        """Hold back what this turn of the event loop sends, so that the server wakes up once.

        Never for longer than the turn: data that TCP could not send yet must not be held back.
        """
        if not self.corked and self.cork_socket:
            self.cork_socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
        if not self.corked:
            self.loop.call_soon(self._uncork)
        self.corked += 1

    def _uncork(self) -> None:
        self.corked = 0
        if self.cork_socket and not self.closed.is_set():
            self.cork_socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)

    def _flush(self) -> None:
        try:
            is_full = bool(self.pg.flush())
        except psycopg.Error as error:
            self.receive(str(error))
            return
        if is_full and not self.is_writing:
            self.loop.add_writer(self.fd, self._flush)
        elif self.is_writing and not is_full:
            self.loop.remove_writer(self.fd)
        self.is_writing = is_full
        if not self.pg.is_busy():  # libpq also reads while it writes
            self.loop.call_soon(self.receive)

    def receive(self, lost: str = "") -> None:
        """Deliver the results that have arrived; then, if `lost`, close for that reason."""
        if self.closed.is_set():
            return
        try:
            self.pg.consume_input()
        except psycopg.Error as error:
            lost = lost or str(error)
        nulls = 0  # two in a row: libpq has no more results
        while self.pending and nulls < 2 and not self.pg.is_busy():
            nulls += 1
            if result := self.pg.get_result():
                nulls = 0
                self._accept(result, self.pending[0])
        if lost:
            self.mark_lost(lost)
        self.on_progress()

    def _accept(self, result: PGresult, request: PendingRequest) -> None:
        status = result.status
        if status in (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK):
            request.result, request.results_due = result, request.results_due - 1
        elif status == ExecStatus.FATAL_ERROR and not _ends_session(result):
            request.result, request.results_due = result, 0
            state = result.error_field(DiagnosticField.SQLSTATE)
            if request.prepares or state in STALE_STATEMENT_STATES:
                self.prepared.difference_update(sql for sql, _ in request.statements)
        elif status == ExecStatus.PIPELINE_SYNC and request.result and not request.results_due:
            now, self.is_suspect = self.loop.time(), False
            self.seconds_per_request += (now - self.head_since - self.seconds_per_request) / 8
            window = self.max_queue_delay / max(self.seconds_per_request, 1e-6)
            self.window = min(self.max_depth, max(1, window))
            self.head_since = self.last_result_at = now
            self.pending.popleft().finish(request.result)
            if self.is_retired and not self.pending:
                self._disconnect("retired")
        elif status != ExecStatus.PIPELINE_ABORTED:
            self.mark_lost(f"{ExecStatus(status).name}: {result.get_error_message()}")

    def mark_lost(self, reason: str) -> None:
        """Close the connection; reads that may be retried are handed back, all else fails."""
        if self.closed.is_set():
            return
        self._disconnect(reason)
        while self.pending:
            request = self.pending.popleft()
            error = ConnectionUnavailable(self.close_reason, maybe_applied=request.is_write)
            request.finish(None if request.retries_left > 0 else error)
        for sibling in tuple(self.siblings):  # a connection is rarely lost alone
            sibling.is_suspect = True
            if not sibling.pending:
                sibling.send(self._probe())

    def _disconnect(self, reason: str) -> None:
        self.close_reason = reason.strip()
        self.closed.set()
        self.siblings.remove(self)
        self.loop.remove_reader(self.fd)
        self.loop.remove_writer(self.fd)
        if self.cork_socket:
            self.cork_socket.close()
        self.pg.finish()

    def _probe(self) -> PendingRequest:
        """Return a request whose only purpose is to see whether a connection still answers."""
        return PendingRequest(
            outcome=self.loop.create_future(),
            statements=(EMPTY_STATEMENT, EMPTY_STATEMENT),
            statement_timeout=0,
            use_names=False,
            is_write=True,
            retries_left=0,
            received_at=self.loop.time(),
            queue_key="",
        )


def _corkable(fd: int) -> socket.socket | None:
    """Return a socket that can hold back what is sent to it (tcp(7), TCP_CORK), or None.

    Most of the cost of a small request is waking up the server's process.
    """
    duplicate = socket.socket(fileno=os.dup(fd))
    is_tcp = duplicate.family in (socket.AF_INET, socket.AF_INET6)
    if hasattr(socket, "TCP_CORK") and is_tcp:
        return duplicate
    duplicate.close()
    return None


def _ends_session(error: PGresult) -> bool:
    severity = error.error_field(DiagnosticField.SEVERITY_NONLOCALIZED)
    severity = severity or error.error_field(DiagnosticField.SEVERITY)  # PgBouncer sends only this
    return severity in (b"FATAL", b"PANIC", None)  # None: libpq itself, the connection broke
