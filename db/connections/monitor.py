"""Watches the database on its own connection: is it reachable, trusted, at which revision?"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import psycopg
import structlog
from psycopg import AsyncConnection

from db import expected_tables, revisions, security_audit
from db.connections.server import deadline, identify
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
    awaited before the first request is let through, and again whenever `url` returns another
    address, once the database there has passed the audit. `find_outage` returns why requests cannot
    connect, or None.
    """

    def __init__(
        self,
        url: Callable[[], str],
        expected: Sequence[ExpectedTable],
        *,
        refuse: Callable[[str], None],
        on_trusted: Callable[[], Awaitable[None]],
        find_outage: Callable[[], str | None],
    ) -> None:
        self.reason: str | None = "the database has not responded yet"
        self.is_known_down = False  # a request has waited its whole timeout for the database
        self._is_down = False
        self._url = url
        self._rejected_url: str | None = None  # "": the setting could not be read
        self._trusted_url = ""
        self._trusted_servers: set[str] = set()
        self._must_reconnect = False
        self._expected = expected
        self._refuse = refuse
        self._on_trusted = on_trusted
        self._find_outage = find_outage
        self._was_audited = asyncio.Event()  # accepted or refused

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            try:
                url = self._url()
                async with await _connect(url) as connection:
                    self._must_reconnect = False
                    await self._follow(connection, url)
            except (psycopg.Error, OSError, TimeoutError) as error:
                self._is_down = True
                self._report(DATABASE_DOWN, f"{DATABASE_DOWN} ({first_line(error)})")
            await asyncio.sleep(RETRY_SECONDS)

    async def wait_until_trusted(self, timeout: float) -> None:  # noqa: ASYNC109
        """Wait up to `timeout` (s) for the first audit. Raises `Unavailable`."""
        if self._trusted_url:
            return
        try:
            await asyncio.wait_for(self._was_audited.wait(), timeout)
        except TimeoutError:
            self.record_timeout()
        if not self._trusted_url:
            raise Unavailable(Reason.DATABASE_AWAY)

    def record_timeout(self) -> None:
        """Record that a request waited its whole timeout: while the database is down, all would."""
        self.is_known_down |= self._is_down

    def trusts(self, identity: str) -> bool:
        """Return whether a server has passed the audit; if it has not, audit it soon.

        A name in the DNS may lead to another server than before.
        """
        is_trusted = identity in self._trusted_servers
        self._must_reconnect |= not is_trusted
        return is_trusted

    async def _follow(self, connection: AsyncConnection[Any], url: str) -> None:
        """Watch until requests connect elsewhere."""
        known: frozenset[str] | None = None
        missing: str | None = None
        outage: str | None = None
        while not self._must_reconnect and not await self._has_moved(url):
            with deadline(connection, ANSWER_TIMEOUT_SECONDS):
                applied = await revisions.applied(connection)
                self._is_down = self.is_known_down = False
                if applied != known:
                    if not await self._audit(connection, url):
                        return
                    # A newer release may have removed what it no longer needs.
                    is_ahead = revisions.history().is_ahead(applied)
                    expected = () if is_ahead else self._expected
                    missing = await expected_tables.find_missing(connection, expected)
                known = applied
            previous, outage = outage, self._find_outage()
            if reason := revisions.history().reason_not_ready(applied):
                self._report(reason)
            elif previous and outage:  # not only while one connection replaces another
                self._report(DATABASE_DOWN, f"requests cannot connect to the database ({outage})")
            else:
                self._report(missing)
            await asyncio.sleep(POLL_SECONDS)

    async def _has_moved(self, url: str) -> bool:
        """Return whether the setting has another address than `url`, and it can be connected to.

        Until then the database at `url` serves.
        """
        new = ""
        try:
            new = self._url()
            if new == url:
                return False
            async with await _connect(new):
                return True
        except (psycopg.Error, OSError, TimeoutError) as error:
            if new != self._rejected_url:
                log.warning("database_address_rejected", reason=first_line(error))
            self._rejected_url = new
            return False

    async def _audit(self, connection: AsyncConnection[Any], url: str) -> bool:
        result = await security_audit.audit(connection)
        if result.violation:
            self.reason = result.violation
            self._trusted_url = ""
            self._trusted_servers.clear()
            self._was_audited.set()
            self._refuse(result.violation)
            return False
        server = await identify(connection, ANSWER_TIMEOUT_SECONDS)
        self._trusted_servers.add(server.identity)
        if url != self._trusted_url:
            if result.warning:
                log.warning("database_version_outdated", detail=result.warning)
            await self._on_trusted()
        self._trusted_url = url
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


async def _connect(url: str) -> AsyncConnection[Any]:
    return await AsyncConnection.connect(
        url, autocommit=True, prepare_threshold=None, connect_timeout=CONNECT_TIMEOUT_SECONDS
    )
