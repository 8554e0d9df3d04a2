"""What is sent for one statement, and the rows that come back: bytes, as libpq wants them."""

import asyncio
import re
from collections.abc import Sequence
from functools import lru_cache

import psycopg
from psycopg.pq.abc import PGresult

from db.connections.pipeline import Step

ROWS_PER_TURN = 2_000  # converted at a time, so that a large result lets others in
# Other SQL may outlast the Sync (set, begin, listen, declare) or wedge the pipeline (copy).
ALLOWED_STATEMENT = re.compile(
    r"[\s(]*(select|insert|update|delete|merge|with|values|table)\b", re.I
)


def encode_request(
    settings: Sequence[tuple[str, str]],
    limit: float,
    sql: str,
    parameters: Sequence[str | None],
    *,
    read_only: bool,
) -> tuple[Step, Step]:
    """Return the two statements of a request: that which binds, with `limit` (s), and its own.

    Raises `psycopg.Error` for what could not be sent.
    """
    bound = [_encode(text) for setting in settings for text in setting]
    bind = _bind(len(settings), read_only), [*bound, b"%d" % max(1, limit * 1000)]
    return bind, (_statement(sql), [_encode(text) for text in parameters])


@lru_cache
def _bind(settings: int, read_only: bool) -> bytes:
    """Return the SQL that binds so many settings and, as its last parameter, the time limit."""
    calls = [f"set_config(${2 * n + 1}, ${2 * n + 2}, true)" for n in range(settings)]
    calls.append(f"set_config('statement_timeout', ${2 * settings + 1}, true)")
    if read_only:
        calls.append("set_config('transaction_read_only', 'on', true)")
    return f"select {', '.join(calls)}".encode()


@lru_cache(1024)
def _statement(sql: str) -> bytes:
    if not ALLOWED_STATEMENT.match(sql):
        raise psycopg.NotSupportedError(f"cannot run in a transaction of its own: {sql[:40]}")
    return _encode(sql) or b""


def _encode(text: str | None) -> bytes | None:
    if text is not None and "\0" in text:
        raise psycopg.DataError("PostgreSQL text cannot contain NUL")
    try:
        return None if text is None else text.encode()
    except UnicodeEncodeError as error:
        raise psycopg.DataError(f"not valid Unicode: {error}") from error


async def decode_rows(result: PGresult) -> list[tuple[bytes | None, ...]]:
    """Return the rows of a result as text, letting others in between many."""
    value, columns, count = result.get_value, range(result.nfields), result.ntuples
    converted: list[tuple[bytes | None, ...]] = []
    for start in range(0, count, ROWS_PER_TURN):
        if start:
            await asyncio.sleep(0)
        some = range(start, min(start + ROWS_PER_TURN, count))
        converted += [tuple([value(row, column) for column in columns]) for row in some]
    return converted
