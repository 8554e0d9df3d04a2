"""The connections to PostgreSQL that requests use: opened and closed here, and nowhere else.

Single statements share a few connections (`multiplexer`), reads apart from writes; several
statements that belong together have one of the pool to themselves.
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
    AWAY,
    CONNECT_TIMEOUT_SECONDS,
    Monitor,
    deadline,
)
from db.connections.multiplexer import ConnectionStats, Multiplexer, QueueFull
from db.connections.pipeline import ConnectionUnavailable
from db.errors import Unavailable, is_connection_lost
from db.expected_tables import ExpectedTable

POOL_POLL_SECONDS = 0.1


class Database:
    """Connections to a database that is watched, and given out once it can be trusted.

    Of each kind there are `connections`, and one more for tenants that have none in use.
    `refuse` is called, once, with why the role or a table must not be trusted.
    """

    def __init__(
        self,
        url: str | Callable[[], str],
        *,
        refuse: Callable[[str], None],
        demanded: Sequence[ExpectedTable] = (),
        connections: int = 4,
        waiting: int = 64,
        timeout: float = 2.5,
        statement_timeout: float = 2.0,
        cursor_factory: type[AsyncRawCursor[Any]] = AsyncRawCursor,
    ) -> None:
        self._url = url if callable(url) else lambda: url
        self._timeout = timeout
        self._connections = connections
        self._statement_timeout = statement_timeout
        self._watch = Monitor(self._url, demanded, refuse=refuse, trusted=self._share)
        self._watcher: asyncio.Task[None] | None = None
        self._shared: dict[str, Multiplexer] = {}  # of "reads" and of "writes"
        self._places = FairSemaphore(connections, waiting)
        self._pool: AsyncConnectionPool[AsyncConnection[Any]] = AsyncConnectionPool(
            self._url,
            open=False,
            min_size=1,
            max_size=connections + 1,
            timeout=timeout,
            max_idle=300,
            # Its pauses between attempts grow: it gives up at once, and `_taken` asks again.
            reconnect_timeout=POOL_POLL_SECONDS / 2,
            check=_check_connection,
            # A pooler in transaction mode does not keep prepared statements.
            kwargs={
                "prepare_threshold": None,
                "cursor_factory": cursor_factory,
                "connect_timeout": CONNECT_TIMEOUT_SECONDS,
            },
        )

    @property
    def reason(self) -> str | None:
        """Why no request can be served, None when they can."""
        return self._watch.reason

    @property
    def stats(self) -> dict[str, ConnectionStats]:
        """The connections by kind; those for transactions are in use rather than in flight."""
        pool = self._pool.get_stats()
        size = pool["pool_size"]
        return {
            kind: self._shared[kind].stats if self._shared else ConnectionStats(0, 0, 0)
            for kind in ("reads", "writes")
        } | {
            "transactions": ConnectionStats(
                size, size - pool["pool_available"], self._places.waiting
            )
        }

    async def open(self) -> None:
        """Start to connect and return at once, also when the database is away."""
        await self._pool.open(wait=False)
        self._watcher = asyncio.create_task(self._watch.run())

    async def close(self) -> None:
        """Close every connection; those in use end with their transaction."""
        watcher, self._watcher = self._watcher, None  # what it was connecting ends with it
        if watcher:
            watcher.cancel()
            with suppress(asyncio.CancelledError):
                await watcher
        for multiplexer in self._shared.values():
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
        """Run one statement under these settings, in a transaction of its own.

        `statement_timeout` replaces that of the database. Raises `Unavailable`, and
        `psycopg.Error` for what the statement is answered with.
        """
        self._demand_hope()
        await self._watch.examined(self._timeout)
        multiplexer = self._shared["reads" if read_only else "writes"]
        began = asyncio.get_running_loop().time()
        try:
            return await multiplexer.fetch(
                tuple(settings.items()), sql, parameters, statement_timeout=statement_timeout
            )
        except QueueFull as error:
            raise Unavailable(type(error).__name__) from None
        except ConnectionUnavailable as error:
            waited = asyncio.get_running_loop().time() - began
            if waited >= self._timeout:
                self._watch.waited_in_vain()
            raise Unavailable(type(error).__name__, maybe_done=error.maybe_done) from None

    @asynccontextmanager
    async def connection(
        self,
        read_only: bool,
        statement_timeout: float | None = None,
        patience: float | None = None,
        share: str = "",
    ) -> AsyncIterator[AsyncConnection[Any]]:
        """Yield a connection inside a transaction of its own; the caller binds `limits` in it.

        Who waits takes turns by `share`. Raises `Unavailable` when none is to be had: at once
        when too many wait already, else after `patience` or `timeout` seconds; and when the
        commit was cut off.
        """
        self._demand_hope()
        await self._watch.examined(self._timeout)
        limit = self._statement_timeout if statement_timeout is None else statement_timeout
        whole, committing = patience is None, False
        patience = self._timeout if patience is None else patience
        ends = asyncio.get_running_loop().time() + patience
        try:
            async with self._places.place(share, patience), self._taken(ends, whole) as connection:
                with deadline(connection, self._timeout + limit):
                    await connection.set_read_only(read_only)
                    async with connection.transaction():
                        yield connection
                        committing = not read_only
        except SemaphoreFull as error:
            raise Unavailable(type(error).__name__) from None
        except psycopg.Error as error:
            if committing and is_connection_lost(error):
                name = type(error).__name__
                raise Unavailable(name, maybe_done=True, lost=True) from error
            raise

    @asynccontextmanager
    async def _taken(self, ends: float, whole: bool) -> AsyncIterator[AsyncConnection[Any]]:
        loop, connection = asyncio.get_running_loop(), None
        try:
            while connection is None:
                left = ends - loop.time()
                with suppress(PoolTimeout) if left > POOL_POLL_SECONDS else nullcontext():
                    connection = await self._pool.getconn(
                        min(max(left, POOL_POLL_SECONDS / 2), POOL_POLL_SECONDS)
                    )
        except (PoolTimeout, PoolClosed) as error:
            if whole and isinstance(error, PoolTimeout):
                self._watch.waited_in_vain()
            raise Unavailable(type(error).__name__) from None
        try:
            yield connection
        finally:
            await self._pool.putconn(connection)

    def limits(self, statement_timeout: float | None = None) -> dict[str, str]:
        """Settings of a transaction; a pooler refuses them as start-up options."""
        limit = self._statement_timeout if statement_timeout is None else statement_timeout
        return {"statement_timeout": f"{max(1, limit * 1000):.0f}"}

    def _demand_hope(self) -> None:
        """Refuse at once what could only wait in vain, as others did."""
        if self._watch.hopeless and not any(one.connected for one in self._shared.values()):
            raise Unavailable(AWAY)

    async def _share(self, direct: bool) -> None:
        """Open the connections that single statements share, once the database can be trusted."""
        if self._shared:
            return
        self._shared = {
            kind: Multiplexer(
                self._url,
                connections=self._connections,
                express=True,
                timeout=self._timeout,
                statement_timeout=self._statement_timeout,
                read_only=kind == "reads",
                prepare=direct,  # a pooler keeps no prepared statements
            )
            for kind in ("reads", "writes")
        }
        for multiplexer in self._shared.values():
            await multiplexer.open()
        async with asyncio.timeout(ANSWER_TIMEOUT_SECONDS):
            while not all(one.connected for one in self._shared.values()):  # noqa: ASYNC110
                await asyncio.sleep(0.005)


async def _check_connection(connection: AsyncConnection[Any]) -> None:
    with deadline(connection, ANSWER_TIMEOUT_SECONDS):
        await AsyncConnectionPool.check_connection(connection)
