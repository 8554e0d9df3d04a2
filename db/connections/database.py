"""The connections to PostgreSQL that requests use.

Single statements share a few pipeline connections (`multiplexer`), reads apart from writes. A
transaction of several statements has a connection of the pool to itself.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress
from typing import Any

import psycopg
from psycopg import AsyncConnection, AsyncRawCursor
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout

from db.connections.fair_queue import FairSemaphore, SemaphoreFull
from db.connections.monitor import (
    ANSWER_TIMEOUT_SECONDS,
    CONNECT_TIMEOUT_SECONDS,
    DATABASE_DOWN,
    Monitor,
)
from db.connections.multiplexer import ConnectionStats, Multiplexer, QueueFull
from db.connections.pipeline import ConnectionUnavailable, QueueTimeout
from db.connections.server import NOT_AUDITED, deadline, identify
from db.errors import Reason, Unavailable, is_connection_lost, unavailable_connection
from db.expected_tables import ExpectedTable

POOL_POLL_SECONDS = 0.1
MAYBE_APPLIED = "The database did not respond: the change may or may not have been applied"


class Database:
    """Connections to a database that is monitored, and used once it can be trusted.

    Reads, writes and transactions each have `connections` connections, and one more that is
    reserved for tenants that use no connection of that kind. `max_waiting` transactions may wait
    for a connection. Timeouts are in seconds. `refuse` is called, once, with the reason why the
    role or a table must not be trusted.
    """

    def __init__(
        self,
        url: str | Callable[[], str],
        *,
        refuse: Callable[[str], None],
        expected: Sequence[ExpectedTable] = (),
        connections: int = 4,
        max_waiting: int = 64,
        timeout: float = 2.5,
        statement_timeout: float = 2.0,
        cursor_factory: type[AsyncRawCursor[Any]] = AsyncRawCursor,
    ) -> None:
        self._url = url if callable(url) else lambda: url
        self._timeout = timeout
        self._size = connections
        self._statement_timeout = statement_timeout
        self._monitor = Monitor(
            self._url,
            expected,
            refuse=refuse,
            on_trusted=self._connect_to_new_address,
            find_outage=self._find_outage,
        )
        self._monitoring: asyncio.Task[None] | None = None
        self._multiplexers: dict[str, Multiplexer] = {}  # of "reads" and of "writes"
        self._semaphore = FairSemaphore(connections, max_waiting)
        self._pool: AsyncConnectionPool[AsyncConnection[Any]] = AsyncConnectionPool(
            self._url,
            open=False,
            min_size=1,
            max_size=connections + 1,
            timeout=timeout,
            max_idle=300,
            # The pool would pause longer after each attempt: it gives up, and `_pooled` asks again.
            reconnect_timeout=POOL_POLL_SECONDS / 2,
            configure=self._check_trusted,
            check=_check_connection,
            # A pooler in transaction mode keeps no prepared statements.
            kwargs={
                "prepare_threshold": None,
                "cursor_factory": cursor_factory,
                "connect_timeout": CONNECT_TIMEOUT_SECONDS,
            },
        )

    @property
    def not_ready_reason(self) -> str | None:
        """Why no request can be served, or None."""
        return self._monitor.reason

    @property
    def not_ready_error(self) -> Unavailable | None:
        """The error of a request that cannot be served because of `not_ready_reason`, or None."""
        if (reason := self.not_ready_reason) is None:
            return None
        is_down = reason == DATABASE_DOWN
        return Unavailable(Reason.DATABASE_AWAY if is_down else Reason.NOT_READY, reason)

    @property
    def stats(self) -> dict[str, ConnectionStats]:
        """The connections by kind; of those for transactions, `in_flight` counts those in use."""
        pool = self._pool.get_stats()
        size = pool["pool_size"]
        return {
            kind: self._multiplexers[kind].stats if self._multiplexers else ConnectionStats(0, 0, 0)
            for kind in ("reads", "writes")
        } | {
            "transactions": ConnectionStats(
                size, size - pool["pool_available"], self._semaphore.waiting
            )
        }

    async def open(self) -> None:
        """Start to connect and return at once, also while the database is down."""
        self._monitoring = asyncio.create_task(self._monitor.run())

    async def close(self) -> None:
        """Close every connection; those in use end with their transaction."""
        monitoring, self._monitoring = self._monitoring, None
        if monitoring:  # first, because it may be opening the multiplexers
            monitoring.cancel()
            with suppress(asyncio.CancelledError):
                await monitoring
        for multiplexer in self._multiplexers.values():
            await multiplexer.close()
        await self._pool.close()

    async def fetch(
        self,
        settings: Mapping[str, str],
        sql: str,
        parameters: Sequence[str | None],
        *,
        read_only: bool,
        statement_timeout: float | None = None,
    ) -> list[tuple[bytes | None, ...]]:
        """Run one statement with these settings in a transaction of its own; return its rows.

        `statement_timeout` (s) replaces that of the database. Raises `Unavailable`, and
        `psycopg.Error` for an error of the statement.
        """
        self._fail_fast_when_down()
        await self._monitor.wait_until_trusted(self._timeout)
        multiplexer = self._multiplexers["reads" if read_only else "writes"]
        started = asyncio.get_running_loop().time()
        try:
            return await multiplexer.fetch(
                tuple(settings.items()), sql, parameters, statement_timeout=statement_timeout
            )
        except QueueFull:
            raise Unavailable(Reason.NO_ROOM) from None
        except ConnectionUnavailable as error:
            if asyncio.get_running_loop().time() - started >= self._timeout:
                self._monitor.record_timeout()
            raise _unavailable(error) from None

    @asynccontextmanager
    async def connection(
        self,
        *,
        read_only: bool,
        statement_timeout: float | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
        queue_key: str = "",
    ) -> AsyncIterator[AsyncConnection[Any]]:
        """Yield a connection inside a transaction; the caller binds `transaction_settings` in it.

        Waiting is fair by `queue_key`. Raises `Unavailable` at once when too many wait, after
        `timeout` seconds (by default that of the database) when no connection is free, and when
        the connection was lost during the commit.
        """
        self._fail_fast_when_down()
        await self._monitor.wait_until_trusted(self._timeout)
        limit = self._statement_timeout if statement_timeout is None else statement_timeout
        waits_full_timeout, is_committing = timeout is None, False
        timeout = self._timeout if timeout is None else timeout
        ends = asyncio.get_running_loop().time() + timeout
        try:
            async with (
                self._semaphore.slot(queue_key, timeout),
                self._pooled(ends, waits_full_timeout=waits_full_timeout) as connection,
            ):
                with deadline(connection, self._timeout + limit):
                    await connection.set_read_only(read_only)
                    async with connection.transaction():
                        yield connection
                        is_committing = not read_only
        except SemaphoreFull:
            raise Unavailable(Reason.NO_ROOM) from None
        except psycopg.Error as error:
            if is_committing and is_connection_lost(error):
                raise unavailable_connection(error, MAYBE_APPLIED) from error
            raise

    @asynccontextmanager
    async def _pooled(
        self, ends: float, *, waits_full_timeout: bool
    ) -> AsyncIterator[AsyncConnection[Any]]:
        loop, connection = asyncio.get_running_loop(), None
        try:
            while connection is None:
                remaining = ends - loop.time()
                is_last = remaining <= POOL_POLL_SECONDS
                with nullcontext() if is_last else suppress(PoolTimeout):
                    connection = await self._pool.getconn(
                        min(max(remaining, POOL_POLL_SECONDS / 2), POOL_POLL_SECONDS)
                    )
        except PoolClosed:
            raise Unavailable(Reason.DATABASE_AWAY) from None
        except PoolTimeout:
            if waits_full_timeout:
                self._monitor.record_timeout()
            raise Unavailable(Reason.NO_ROOM) from None
        try:
            yield connection
        finally:
            await self._pool.putconn(connection)

    def transaction_settings(self, statement_timeout: float | None = None) -> dict[str, str]:
        """Return settings to bind in a transaction: a pooler rejects them as start-up options."""
        limit = self._statement_timeout if statement_timeout is None else statement_timeout
        return {"statement_timeout": f"{max(1, limit * 1000):.0f}"}

    def _fail_fast_when_down(self) -> None:
        """Reject a request at once if an earlier one timed out and the database is still down."""
        is_connected = any(m.is_connected for m in self._multiplexers.values())
        if self._monitor.is_known_down and not is_connected:
            raise Unavailable(Reason.DATABASE_AWAY, "The database is unavailable")

    async def _connect_to_new_address(self) -> None:
        """Open the shared connections, or replace those to the address before.

        Raises `psycopg.OperationalError` when they do not open in time.
        """
        if not self._multiplexers:
            self._multiplexers = {kind: self._multiplexer(kind) for kind in ("reads", "writes")}
            for multiplexer in self._multiplexers.values():
                await multiplexer.open()
            await self._pool.open(wait=False)
        else:
            for multiplexer in self._multiplexers.values():
                multiplexer.leave_old_address()
            await self._pool.drain()
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_SECONDS):
                while self._find_outage():  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
        except TimeoutError:
            raise psycopg.OperationalError(self._find_outage() or "connected too late") from None

    def _multiplexer(self, kind: str) -> Multiplexer:
        return Multiplexer(
            self._url,
            trusts=self._monitor.trusts,
            connections=self._size,
            reserve_connection=True,
            timeout=self._timeout,
            statement_timeout=self._statement_timeout,
            read_only=kind == "reads",
        )

    def _find_outage(self) -> str | None:
        """Return why requests find no shared connection, or None."""
        for kind, multiplexer in self._multiplexers.items():
            if not multiplexer.is_connected:
                return f"{kind}: {multiplexer.last_error}"
        return None

    async def _check_trusted(self, connection: AsyncConnection[Any]) -> None:
        """Reject a new connection to a server that has not passed the audit."""
        server = await identify(connection, ANSWER_TIMEOUT_SECONDS)
        await connection.rollback()
        if not self._monitor.trusts(server.identity):
            raise psycopg.OperationalError(NOT_AUDITED)


def _unavailable(error: ConnectionUnavailable) -> Unavailable:
    reason = Reason.NO_ROOM if isinstance(error, QueueTimeout) else Reason.DATABASE_AWAY
    if error.maybe_applied:
        return Unavailable(reason, MAYBE_APPLIED)
    return Unavailable(reason)


async def _check_connection(connection: AsyncConnection[Any]) -> None:
    with deadline(connection, ANSWER_TIMEOUT_SECONDS):
        await AsyncConnectionPool.check_connection(connection)
