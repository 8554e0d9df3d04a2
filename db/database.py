"""The connections to PostgreSQL: opened, examined, watched and closed here, and nowhere else.

Single statements share a few connections (`db.multiplexer`), reads apart from writes; several
statements that belong together have one of the pool to themselves.
"""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from typing import Any

import psycopg
import structlog
from psycopg import AsyncConnection, AsyncRawCursor
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout

from db import demands, schema
from db.demands import Demand
from db.errors import Unavailable, first_line, is_lost
from db.links import Away
from db.multiplexer import Busy, Multiplexer, Stats
from db.shares import Full, Places

POLL = 0.5
ANSWER = 1.0
CONNECT = 2
RETRY = 0.25
SLICE = 0.1
AWAY = "the database is away"

log = structlog.get_logger("covenant.database")


class Database:
    """Examined connections, and what keeps them from being used.

    Of each kind there are `connections`, and one more for tenants that have none in use.

    `reason` is None when requests can be served. `refuse` is called, once, with why the role or
    a table must not be trusted; until the first examination no connection is given out.
    """

    def __init__(
        self,
        url: str | Callable[[], str],
        *,
        refuse: Callable[[str], None],
        demanded: Sequence[Demand] = (),
        connections: int = 4,
        waiting: int = 64,
        timeout: float = 2.5,
        statement_timeout: float = 2.0,
        cursor_factory: type[AsyncRawCursor[Any]] = AsyncRawCursor,
    ) -> None:
        self.reason: str | None = "the database has not answered yet"
        self._url = url if callable(url) else lambda: url
        self._refuse = refuse
        self._examined = False
        self._judged = asyncio.Event()  # examined, or refused
        self._demanded = demanded
        self._timeout = timeout
        self._connections = connections
        self._statement_timeout = statement_timeout
        self._reads: Multiplexer | None = None
        self._writes: Multiplexer | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._hopeless = False  # somebody has waited in vain for the database
        self._places = Places(connections, waiting)
        self._pool: AsyncConnectionPool[AsyncConnection[Any]] = AsyncConnectionPool(
            self._url,
            open=False,
            min_size=1,
            max_size=connections + 1,
            timeout=timeout,
            max_idle=300,
            # Its pauses between attempts grow: it gives up at once, and `_taken` asks again.
            reconnect_timeout=SLICE / 2,
            check=_check,
            # A pooler in transaction mode does not keep prepared statements.
            kwargs={
                "prepare_threshold": None,
                "cursor_factory": cursor_factory,
                "connect_timeout": CONNECT,
            },
        )

    @property
    def stats(self) -> dict[str, Stats]:
        """The connections by kind; those for transactions are in use rather than in flight."""
        shared = {"reads": self._reads, "writes": self._writes}
        pool = self._pool.get_stats()
        size = pool["pool_size"]
        return {
            kind: multiplexer.stats if multiplexer else Stats(0, 0, 0)
            for kind, multiplexer in shared.items()
        } | {"transactions": Stats(size, size - pool["pool_available"], self._places.waiting)}

    async def open(self) -> None:
        """Start to connect and return at once, also when the database is away."""
        await self._pool.open(wait=False)
        self._watcher = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """Close every connection; those in use end with their transaction."""
        watcher, self._watcher = self._watcher, None  # what it was connecting ends with it
        if watcher:
            watcher.cancel()
            with suppress(asyncio.CancelledError):
                await watcher
        for multiplexer in (self._reads, self._writes):
            if multiplexer:
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
        await self._wait_until_examined()
        multiplexer = self._reads if read_only else self._writes
        if multiplexer is None:
            raise Unavailable("NotExamined")
        began = asyncio.get_running_loop().time()
        try:
            return await multiplexer.fetch(
                tuple(settings.items()), sql, parameters, statement_timeout=statement_timeout
            )
        except Busy as error:
            raise Unavailable(type(error).__name__) from None
        except Away as error:
            waited = asyncio.get_running_loop().time() - began
            self._hopeless |= waited >= self._timeout and self.reason == AWAY
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
        await self._wait_until_examined()
        limit = self._statement_timeout if statement_timeout is None else statement_timeout
        whole, committing = patience is None, False
        patience = self._timeout if patience is None else patience
        ends = asyncio.get_running_loop().time() + patience
        try:
            async with self._places.place(share, patience), self._taken(ends, whole) as connection:
                with _in_time(connection, self._timeout + limit):
                    await connection.set_read_only(read_only)
                    async with connection.transaction():
                        yield connection
                        committing = not read_only
        except Full as error:
            raise Unavailable(type(error).__name__) from None
        except psycopg.Error as error:
            if committing and is_lost(error):
                name = type(error).__name__
                raise Unavailable(name, maybe_done=True, lost=True) from error
            raise

    @asynccontextmanager
    async def _taken(self, ends: float, whole: bool) -> AsyncIterator[AsyncConnection[Any]]:
        loop, connection = asyncio.get_running_loop(), None
        try:
            while connection is None:
                left = ends - loop.time()
                with suppress(PoolTimeout) if left > SLICE else nullcontext():
                    connection = await self._pool.getconn(min(max(left, SLICE / 2), SLICE))
        except (PoolTimeout, PoolClosed) as error:
            in_vain = whole and isinstance(error, PoolTimeout)
            self._hopeless |= in_vain and self.reason == AWAY
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
        links = (self._reads, self._writes)
        if self._hopeless and not any(one and one.connected for one in links):
            raise Unavailable(AWAY)

    async def _wait_until_examined(self) -> None:
        if not self._examined:
            try:
                await asyncio.wait_for(self._judged.wait(), self._timeout)
            except TimeoutError:
                self._hopeless |= self.reason == AWAY
                raise Unavailable("NotExamined") from None
            if not self._examined:
                raise Unavailable("NotExamined")

    async def _watch(self) -> None:
        while True:
            try:
                async with await AsyncConnection.connect(
                    self._url(), autocommit=True, prepare_threshold=None, connect_timeout=CONNECT
                ) as connection:
                    await self._follow(connection)
            except (psycopg.Error, OSError, TimeoutError) as error:
                self._say(f"{AWAY} ({first_line(error)})", AWAY)
            await asyncio.sleep(RETRY)

    async def _follow(self, connection: AsyncConnection[Any]) -> None:
        known: str | None = ""
        lacking: str | None = None
        while True:
            with _in_time(connection, ANSWER):
                revision = await schema.revision(connection)
                self._hopeless = False
                if revision != known:
                    if not await self._examine(connection):
                        return
                    # A newer release may have taken away what only it can do without.
                    ours = self._demanded if revision == schema.head() else ()
                    lacking = await demands.lacking(connection, ours)
                known = revision
            if (revision or "") < schema.head():
                reason = f"the migrations are behind ({revision or 'none'} of {schema.head()})"
                self._say(reason, reason)
            elif lacking:
                self._say(lacking, lacking)
            else:
                self._say(None, None)
            await asyncio.sleep(POLL)

    async def _examine(self, connection: AsyncConnection[Any]) -> bool:
        finding = await schema.examine(connection)
        if finding.refusal:
            self.reason = finding.refusal
            self._examined = False
            self._judged.set()
            self._refuse(finding.refusal)
            return False
        if finding.warning and not self._examined:
            log.warning(finding.warning)
        if self._reads is None:
            await self._multiplex(connection)
        self._examined = True
        self._judged.set()
        return True

    async def _multiplex(self, connection: AsyncConnection[Any]) -> None:
        # A pooler gives its clients process ids of its own, and keeps no prepared statements.
        row = await (await connection.execute("select pg_backend_pid()")).fetchone()
        direct = row is not None and row[0] == connection.info.backend_pid
        self._reads, self._writes = (
            Multiplexer(
                self._url,
                connections=self._connections,
                express=True,
                timeout=self._timeout,
                statement_timeout=self._statement_timeout,
                read_only=read_only,
                prepare=direct,
            )
            for read_only in (True, False)
        )
        await self._reads.open()
        await self._writes.open()
        async with asyncio.timeout(ANSWER):
            while not (self._reads.connected and self._writes.connected):  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    def _say(self, line: str | None, reason: str | None) -> None:
        """Log a change once, not at every look."""
        if reason != self.reason:
            log.warning(line) if line else log.info("the database is ready")
        self.reason = reason


async def _check(connection: AsyncConnection[Any]) -> None:
    with _in_time(connection, ANSWER):
        await AsyncConnectionPool.check_connection(connection)


@contextmanager
def _in_time(connection: AsyncConnection[Any], seconds: float) -> Iterator[None]:
    """Hang up on a server that has not answered when `seconds` are over.

    A task that is cancelled instead would ask the same silent server to cancel, for ten seconds.
    """
    timer = asyncio.get_running_loop().call_later(seconds, _hang_up, connection)
    try:
        yield
    finally:
        timer.cancel()


def _hang_up(connection: AsyncConnection[Any]) -> None:
    with (
        suppress(OSError, psycopg.Error),
        socket.socket(fileno=os.dup(connection.pgconn.socket)) as end,
    ):
        end.shutdown(socket.SHUT_RDWR)
