"""Watches the database on its own connection: is it reachable, trusted, at which revision?"""

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
from db.errors import Reason, Unavailable, first_line
from db.expected_tables import ExpectedTable

POLL_SECONDS = 0.5
ANSWER_TIMEOUT_SECONDS = 1.0
CONNECT_TIMEOUT_SECONDS = 2
RETRY_SECONDS = 0.25
DATABASE_DOWN = "the database is unavailable"

log = structlog.get_logger("covenant.database")


class Monitor:
    """Polls the database; `reason` is None while requests can be served.

    `refuse` is called, once, with why the role or a table must not be trusted. `on_trusted` is
    awaited before the first request is let through; its argument says whether the connection
    reached the server itself, and not a pooler.
    """

    def __init__(
        self,
        url: Callable[[], str],
        expected: Sequence[ExpectedTable],
        *,
        refuse: Callable[[str], None],
        on_trusted: Callable[[bool], Awaitable[None]],
    ) -> None:
        self.reason: str | None = "the database has not responded yet"
        self.is_known_down = False  # a request has waited its whole timeout for the database
        self._is_down = False
        self._url = url
        self._expected = expected
        self._refuse = refuse
        self._on_trusted = on_trusted
        self._is_trusted = False
        self._was_audited = asyncio.Event()  # accepted or refused

    async def run(self) -> None:
        """Watch until cancelled."""
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
                self._is_down = True
                self._report(DATABASE_DOWN, f"{DATABASE_DOWN} ({first_line(error)})")
            await asyncio.sleep(RETRY_SECONDS)

    async def wait_until_trusted(self, timeout: float) -> None:  # noqa: ASYNC109
        """Wait up to `timeout` (s) for the first audit. Raises `Unavailable`."""
        if self._is_trusted:
            return
        try:
            await asyncio.wait_for(self._was_audited.wait(), timeout)
        except TimeoutError:
            self.record_timeout()
        if not self._is_trusted:
            raise Unavailable(Reason.DATABASE_AWAY)

    def record_timeout(self) -> None:
        """Record that a request waited its whole timeout: while the database is down, all would."""
        self.is_known_down |= self._is_down

    async def _follow(self, connection: AsyncConnection[Any]) -> None:
        known: str | None = ""
        missing: str | None = None
        while True:
            with deadline(connection, ANSWER_TIMEOUT_SECONDS):
                revision = await revisions.current(connection)
                self._is_down = self.is_known_down = False
                if revision != known:
                    if not await self._audit(connection):
                        return
                    # A newer release may have removed what it no longer needs.
                    expected = self._expected if revision == revisions.head() else ()
                    missing = await expected_tables.find_missing(connection, expected)
                known = revision
            if (revision or "") < revisions.head():
                self._report(f"migrations are behind ({revision or 'none'} of {revisions.head()})")
            else:
                self._report(missing)
            await asyncio.sleep(POLL_SECONDS)

    async def _audit(self, connection: AsyncConnection[Any]) -> bool:
        result = await security_audit.audit(connection)
        if result.violation:
            self.reason = result.violation
            self._is_trusted = False
            self._was_audited.set()
            self._refuse(result.violation)
            return False
        if result.warning and not self._is_trusted:
            log.warning("database_version_outdated", detail=result.warning)
        if not self._is_trusted:
            await self._on_trusted(await _is_direct(connection))
        self._is_trusted = True
        self._was_audited.set()
        return True

    def _report(self, reason: str | None, message: str | None = None) -> None:
        """Set the reason; log a change of it once, with `message` where it says more."""
        if reason != self.reason:
            if reason:
                log.warning("database_not_ready", reason=message or reason)
            else:
                log.info("database_ready")
        self.reason = reason


async def _is_direct(connection: AsyncConnection[Any]) -> bool:
    """Return whether this is the server itself: a pooler reports other process ids to clients."""
    row = await (await connection.execute("select pg_backend_pid()")).fetchone()
    return row is not None and row[0] == connection.info.backend_pid


@contextmanager
def deadline(connection: AsyncConnection[Any], seconds: float) -> Iterator[None]:
    """Disconnect from a server that has not responded after `seconds`.

    Cancelling the task instead would make psycopg ask the silent server to cancel, for ten seconds.
    Raises `psycopg.OperationalError`.
    """
    is_late = False

    def disconnect() -> None:
        nonlocal is_late
        is_late = True
        _shut_down(connection)

    timer = asyncio.get_running_loop().call_later(seconds, disconnect)
    try:
        yield
    except psycopg.OperationalError as error:
        if not is_late:
            raise
        raise psycopg.OperationalError(f"no response within {seconds:g} s") from error
    finally:
        timer.cancel()


def _shut_down(connection: AsyncConnection[Any]) -> None:
    with (
        suppress(OSError, psycopg.Error),
        socket.socket(fileno=os.dup(connection.pgconn.socket)) as duplicate,
    ):
        duplicate.shutdown(socket.SHUT_RDWR)
