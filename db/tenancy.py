"""The one door to tenant data: binds the tenant, runs the statement, says what errors mean.

The settings are bound inside the transaction only (`set_config(…, true)`,
https://www.postgresql.org/docs/current/functions-admin.html), so that no connection carries a
tenant from one request to the next. Policies read them; nothing else opens a row.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import psycopg
from orjson import Fragment

from db.connections.database import Database
from db.errors import NotFound, Unavailable, from_postgres

Row = tuple[bytes | None, ...]


@dataclass(frozen=True)
class Transaction:
    """Several statements under one binding, all or nothing."""

    connection: psycopg.AsyncConnection[object]

    async def fetch(self, sql: str, *parameters: str | None) -> list[Row]:
        """Return the rows as text; `sql` has its parameters as $1, $2, …"""
        return _rows(await self.connection.execute(sql, parameters))

    async def run(self, sql: str, *parameters: str) -> int:
        """Return how many rows the statement changed."""
        return (await self.connection.execute(sql, parameters)).rowcount

    async def bind(self, **settings: str) -> None:
        """Bind more settings, or others, for the rest of the transaction."""
        await _bind(self.connection, {f"app.{name}": value for name, value in settings.items()})


@dataclass(frozen=True)
class Session:
    """The database as one tenant, one subject, or nobody may see it.

    A statement may take `timeout` seconds; None: what the database allows.
    """

    database: Database
    settings: Mapping[str, str] = field(default_factory=dict)
    read_only: bool = True
    timeout: float | None = None
    within: Transaction | None = None  # all that is done through this door is part of it
    patience: float | None = None  # seconds to wait for a connection of a transaction's own

    async def fetch(self, sql: str, *parameters: str | None) -> list[Row]:
        """Run one statement in its own transaction and return its rows as text.

        Raises `DbError`.
        """
        try:
            if self.within:
                return await self.within.fetch(sql, *parameters)
            return await self.database.fetch(
                self.settings,
                sql,
                parameters,
                read_only=self.read_only,
                statement_timeout=self.timeout,
            )
        except psycopg.Error as error:
            raise self._meaning(error) from error

    @asynccontextmanager
    async def transaction(self, **settings: str) -> AsyncIterator[Transaction]:
        """Yield a transaction with this door's settings and, as `app.<name>`, those given.

        Raises `DbError`: whatever the database said goes to the log, never to the client.
        """
        bound = {**self.settings, **{f"app.{name}": value for name, value in settings.items()}}
        try:
            if self.within:
                if settings:
                    await self.within.bind(**settings)
                yield self.within
                return
            share = next(iter(bound.values()), "")
            async with self.database.connection(
                self.read_only, self.timeout, self.patience, share
            ) as connection:
                await _bind(connection, bound | self.database.limits(self.timeout))
                yield Transaction(connection)
        except psycopg.Error as error:
            raise self._meaning(error) from error

    def _meaning(self, error: psycopg.Error) -> Exception:
        """Return what to raise; an error that is a fault of ours stays what it is, and is a 500."""
        if self.read_only and isinstance(error, psycopg.errors.ReadOnlySqlTransaction):
            return error
        known = from_postgres(error)
        if known is None and self.database.reason:  # such as migrations that are behind
            return Unavailable(self.database.reason)
        return known or error


def tenant_session(
    database: Database, org_id: str, *, read_only: bool, timeout: float | None = None
) -> Session:
    """The database as the organization `org_id` sees it."""
    return Session(database, {"app.org_id": org_id}, read_only, timeout)


def subject_session(
    database: Database, subject: str, *, read_only: bool, timeout: float | None = None
) -> Session:
    """The database as a member sees it: the organizations that `subject` is a member of."""
    return Session(database, {"app.subject": subject}, read_only, timeout)


def anonymous_session(database: Database, *, timeout: float | None = None) -> Session:
    """The database with nothing bound: no row of any tenant."""
    return Session(database, read_only=False, timeout=timeout)


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
