"""The server at the other end of a connection: which one it is, and how long it may take."""

import asyncio
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import AsyncConnection
from psycopg.conninfo import make_conninfo

NOT_AUDITED = "this server has not passed the security audit yet"

_IDENTIFY = """
select pg_backend_pid(), concat_ws(' ', system_identifier, d.oid, session_user, current_user)
from pg_control_system(), pg_database d where d.datname = current_database()"""


@dataclass(frozen=True)
class Server:
    """What a connection has reached.

    `identity` names the cluster, the database and the roles; a standby has that of its primary.
    `is_direct` is False behind a pooler, which may run each transaction on another connection.
    """

    identity: str
    is_direct: bool


async def identify(connection: AsyncConnection[Any], seconds: float) -> Server:
    """Ask the server who it is. Raises `psycopg.OperationalError` after `seconds`.

    A pooler reports other process ids to its clients. Only the server itself knows which process
    runs the query
    (https://www.postgresql.org/docs/current/functions-info.html, pg_backend_pid).
    """
    with deadline(connection, seconds):
        row = await (await connection.execute(_IDENTIFY)).fetchone()
    process_id, identity = row or (None, "")
    return Server(identity, is_direct=process_id == connection.info.backend_pid)


async def connect(
    address: str, trusts: Callable[[str], bool], seconds: int
) -> tuple[AsyncConnection[Any], Server]:
    """Connect for pipelining, with `seconds` to connect and as many to respond.

    Raises `psycopg.Error`, also when `trusts` rejects the server's identity.
    """
    connection = await AsyncConnection.connect(
        make_conninfo(address, connect_timeout=seconds, client_encoding="utf8"),
        autocommit=True,
        prepare_threshold=None,
    )
    try:
        server = await identify(connection, seconds)
        if not trusts(server.identity):
            raise psycopg.OperationalError(NOT_AUDITED)
        if server.is_direct:
            # Otherwise the server plans each request of a list again: not knowing the value of
            # `limit`, it overestimates the cost of the generic plan. Not an option of the
            # connection, because a pooler may reject those.
            await connection.execute("set plan_cache_mode = force_generic_plan")
    except BaseException:
        await connection.close()
        raise
    return connection, server


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
