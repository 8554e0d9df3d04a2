"""What is known of the database: there or away, to be trusted or not, at which revision."""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
import structlog
from psycopg import AsyncConnection

from db import expected_tables, revisions, security_audit
from db.errors import Unavailable, first_line
from db.expected_tables import ExpectedTable

POLL_SECONDS = 0.5
ANSWER_TIMEOUT_SECONDS = 1.0
CONNECT_TIMEOUT_SECONDS = 2
RETRY_SECONDS = 0.25
AWAY = "the database is away"
NOT_EXAMINED = "NotExamined"

log = structlog.get_logger("covenant.database")


class Monitor:
    """Looks at the database again and again, on a connection of its own.

    `reason` is None when requests can be served. `refuse` is called, once, with why the role or
    a table must not be trusted. `trusted` is awaited when the database can be, before any request
    is let through; its argument says whether the server itself was met, not a pooler.
    """

    def __init__(
        self,
        url: Callable[[], str],
        demanded: Sequence[ExpectedTable],
        *,
        refuse: Callable[[str], None],
        trusted: Callable[[bool], Awaitable[None]],
    ) -> None:
        self.reason: str | None = "the database has not answered yet"
        self.hopeless = False  # somebody has waited in vain for the database
        self._url = url
        self._demanded = demanded
        self._refuse = refuse
        self._trusted = trusted
        self._examined = False
        self._judged = asyncio.Event()  # examined, or refused

    async def run(self) -> None:
        """Watch until it is cancelled."""
        while True:
            try:
                async with await AsyncConnection.connect(
                    self._url(),
                    autocommit=True,
                    prepare_threshold=None,
                    connect_timeout=CONNECT_TIMEOUT_SECONDS,
                ) as connection:
                    await self._follow(connection)
            except (psycopg.Error, OSError, TimeoutError) as error:
                self._say(f"{AWAY} ({first_line(error)})", AWAY)
            await asyncio.sleep(RETRY_SECONDS)

    async def examined(self, patience: float) -> None:
        """Wait for the first examination. Raises `Unavailable`, also when it was refused."""
        if self._examined:
            return
        try:
            await asyncio.wait_for(self._judged.wait(), patience)
        except TimeoutError:
            self.waited_in_vain()
        if not self._examined:
            raise Unavailable(NOT_EXAMINED)

    def waited_in_vain(self) -> None:
        """Learn that a request spent all its time: while the database is away others would too."""
        self.hopeless |= self.reason == AWAY

    async def _follow(self, connection: AsyncConnection[Any]) -> None:
        known: str | None = ""
        lacking: str | None = None
        while True:
            with deadline(connection, ANSWER_TIMEOUT_SECONDS):
                revision = await revisions.current(connection)
                self.hopeless = False
                if revision != known:
                    if not await self._examine(connection):
                        return
                    # A newer release may have taken away what only it can do without.
                    ours = self._demanded if revision == revisions.head() else ()
                    lacking = await expected_tables.find_missing(connection, ours)
                known = revision
            if (revision or "") < revisions.head():
                reason = f"the migrations are behind ({revision or 'none'} of {revisions.head()})"
                self._say(reason, reason)
            elif lacking:
                self._say(lacking, lacking)
            else:
                self._say(None, None)
            await asyncio.sleep(POLL_SECONDS)

    async def _examine(self, connection: AsyncConnection[Any]) -> bool:
        finding = await security_audit.audit(connection)
        if finding.violation:
            self.reason = finding.violation
            self._examined = False
            self._judged.set()
            self._refuse(finding.violation)
            return False
        if finding.warning and not self._examined:
            log.warning(finding.warning)
        if not self._examined:
            await self._trusted(await _is_direct(connection))
        self._examined = True
        self._judged.set()
        return True

    def _say(self, line: str | None, reason: str | None) -> None:
        """Log a change once, not at every look."""
        if reason != self.reason:
            log.warning(line) if line else log.info("the database is ready")
        self.reason = reason


async def _is_direct(connection: AsyncConnection[Any]) -> bool:
    """Tell the server from a pooler, which gives its clients process ids of its own."""
    row = await (await connection.execute("select pg_backend_pid()")).fetchone()
    return row is not None and row[0] == connection.info.backend_pid


@contextmanager
def deadline(connection: AsyncConnection[Any], seconds: float) -> Iterator[None]:
    """Hang up on a server that has not answered when `seconds` are over.

    A task that is cancelled instead would ask the same silent server to cancel, for ten seconds.
    Raises `psycopg.OperationalError`.
    """
    late = False

    def hang_up() -> None:
        nonlocal late
        late = True
        _hang_up(connection)

    timer = asyncio.get_running_loop().call_later(seconds, hang_up)
    try:
        yield
    except psycopg.OperationalError as error:
        if not late:
            raise
        raise psycopg.OperationalError(f"no answer within {seconds:g} s") from error
    finally:
        timer.cancel()


def _hang_up(connection: AsyncConnection[Any]) -> None:
    with (
        suppress(OSError, psycopg.Error),
        socket.socket(fileno=os.dup(connection.pgconn.socket)) as end,
    ):
        end.shutdown(socket.SHUT_RDWR)
