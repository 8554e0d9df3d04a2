"""Statements and rows as bytes, the way libpq takes and returns them."""

import asyncio
import re
from collections.abc import Sequence
from functools import lru_cache

import psycopg
from psycopg.pq.abc import PGresult

from db.connections.pipeline import Statement

ROWS_PER_TURN = 2_000  # of the event loop, so that a large result does not block others
# Other statements may outlast the Sync (SET, BEGIN, LISTEN, DECLARE) or block the pipeline (COPY).
ALLOWED_STATEMENT = re.compile(
    r"[\s(]*(select|insert|update|delete|merge|with|values|table)\b", re.I
)


def encode_request(
    settings: Sequence[tuple[str, str]],
    statement_timeout: float,
    sql: str,
    parameters: Sequence[str | None],
    *,
    read_only: bool,
) -> tuple[Statement, Statement]:
    """Return the statement that binds the settings and the timeout (s), and that of the request.

    Raises `psycopg.Error` for what cannot be sent.
    """
    bound = [_encode(text) for setting in settings for text in setting]
    milliseconds = b"%d" % max(1, statement_timeout * 1000)
    bind = _bind(len(settings), read_only), [*bound, milliseconds]
    return bind, (_statement(sql), [_encode(text) for text in parameters])


@lru_cache
def _bind(count: int, read_only: bool) -> bytes:
    """Return the SQL that binds `count` settings and, as its last parameter, the timeout."""
    calls = [f"set_config(${2 * n + 1}, ${2 * n + 2}, true)" for n in range(count)]
    calls.append(f"set_config('statement_timeout', ${2 * count + 1}, true)")
    if read_only:
        calls.append("set_config('transaction_read_only', 'on', true)")
    return f"select {', '.join(calls)}".encode()


@lru_cache(1024)
def _statement(sql: str) -> bytes:
    if not ALLOWED_STATEMENT.match(sql):
        raise psycopg.NotSupportedError(f"cannot run as a transaction of its own: {sql[:40]}")
    return _encode(sql) or b""


def _encode(text: str | None) -> bytes | None:
    if text is not None and "\0" in text:
        raise psycopg.DataError("PostgreSQL text cannot contain NUL")
    try:
        return None if text is None else text.encode()
    except UnicodeEncodeError as error:
        raise psycopg.DataError(f"not valid Unicode: {error}") from error


async def read_rows(result: PGresult) -> list[tuple[bytes | None, ...]]:
    """Return the rows of a result in text format; large ones yield to other tasks in between."""
    value, columns, count = result.get_value, range(result.nfields), result.ntuples
    rows: list[tuple[bytes | None, ...]] = []
    for start in range(0, count, ROWS_PER_TURN):
        if start:
            await asyncio.sleep(0)
        turn = range(start, min(start + ROWS_PER_TURN, count))
        rows += [tuple([value(row, column) for column in columns]) for row in turn]
    return rows
