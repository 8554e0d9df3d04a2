"""Sessions: the only access to tenant data. They bind a tenant, run SQL and translate errors.

A session binds `app.org_id` or `app.subject` with `set_config(…, true)`
(https://www.postgresql.org/docs/current/functions-admin.html), which lasts until the transaction
ends. No connection carries a tenant from one request to the next. Policies read these settings;
nothing else makes a row visible.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import psycopg
from orjson import Fragment

from db.connections.database import Database
from db.errors import NotFound, from_postgres

Row = tuple[bytes | None, ...]


@dataclass(frozen=True)
class Transaction:
    """Several statements with the same settings, committed together or not at all."""

    connection: psycopg.AsyncConnection[object]

    async def fetch(self, sql: str, *parameters: str | None) -> list[Row]:
        """Return the rows, in text format; `sql` has its parameters as $1, $2, …"""
        return _rows(await self.connection.execute(sql, parameters))

    async def run(self, sql: str, *parameters: str) -> int:
        """Run a statement and return how many rows it changed."""
        return (await self.connection.execute(sql, parameters)).rowcount

    async def bind(self, **settings: str) -> None:
        """Set `app.<name>` for the rest of the transaction; other settings remain."""
        await _bind(self.connection, {f"app.{name}": value for name, value in settings.items()})


@dataclass(frozen=True)
class Session:
    """The database as one tenant or one subject sees it, or with nothing bound.

    Each statement is its own transaction, unless `current` is set: then it runs in that one.
    `statement_timeout` is in seconds; None is the default of the database. `connect_timeout`
    bounds the wait for a connection of `transaction`, in seconds.
    """

    database: Database
    settings: Mapping[str, str] = field(default_factory=dict)
    read_only: bool = True
    statement_timeout: float | None = None
    current: Transaction | None = None
    connect_timeout: float | None = None

    async def fetch(self, sql: str, *parameters: str | None) -> list[Row]:
        """Run one statement and return its rows, in text format. Raises `DbError`."""
        try:
            if self.current:
                return await self.current.fetch(sql, *parameters)
            return await self.database.fetch(
                self.settings,
                sql,
                parameters,
                read_only=self.read_only,
                statement_timeout=self.statement_timeout,
            )
        except psycopg.Error as error:
            raise self._translate(error) from error

    @asynccontextmanager
    async def transaction(self, **settings: str) -> AsyncIterator[Transaction]:
        """Yield a transaction with this session's settings and, as `app.<name>`, those given.

        Raises `DbError`.
        """
        bound = {**self.settings, **{f"app.{name}": value for name, value in settings.items()}}
        try:
            if self.current:
                if settings:
                    await self.current.bind(**settings)
                yield self.current
                return
            async with self.database.connection(
                read_only=self.read_only,
                statement_timeout=self.statement_timeout,
                timeout=self.connect_timeout,
                queue_key=next(iter(bound.values()), ""),
            ) as connection:
                limits = self.database.transaction_settings(self.statement_timeout)
                await _bind(connection, bound | limits)
                yield Transaction(connection)
        except psycopg.Error as error:
            raise self._translate(error) from error

    def _translate(self, error: psycopg.Error) -> Exception:
        """Return what to raise: a `DbError`, or `error` itself for a bug, which becomes a 500."""
        if self.read_only and isinstance(error, psycopg.errors.ReadOnlySqlTransaction):
            return error
        # For example, a table is missing because migrations are behind.
        return from_postgres(error) or self.database.not_ready_error or error


def tenant_session(
    database: Database, org_id: str, *, read_only: bool, statement_timeout: float | None = None
) -> Session:
    """Return the database as the organization `org_id` sees it."""
    return Session(database, {"app.org_id": org_id}, read_only, statement_timeout)


def subject_session(
    database: Database, subject: str, *, read_only: bool, statement_timeout: float | None = None
) -> Session:
    """Return the database as `subject` sees it: the organizations that it is a member of."""
    return Session(database, {"app.subject": subject}, read_only, statement_timeout)


def anonymous_session(database: Database, *, statement_timeout: float | None = None) -> Session:
    """Return the database with nothing bound: no row of any tenant is visible."""
    return Session(database, read_only=False, statement_timeout=statement_timeout)


def single_row(rows: list[Row]) -> Fragment:
    """Return the JSON of the only row. Raises `NotFound`."""
    if not rows:
        raise NotFound
    return Fragment(rows[0][0] or b"null")


async def _bind(connection: psycopg.AsyncConnection[object], settings: Mapping[str, str]) -> None:
    calls = ", ".join(f"set_config(${2 * n + 1}, ${2 * n + 2}, true)" for n in range(len(settings)))
    await connection.execute(
        f"select {calls}", [text for setting in settings.items() for text in setting]
    )


def _rows(cursor: psycopg.AsyncCursor[object]) -> list[Row]:
    result = cursor.pgresult
    if result is None:
        return []
    columns = range(result.nfields)
    return [tuple(result.get_value(n, c) for c in columns) for n in range(result.ntuples)]
