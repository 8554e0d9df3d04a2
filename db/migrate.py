"""Bring the schema to a revision, alone: several processes may call it at once."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, NullPool, create_engine, text
from sqlalchemy.exc import DBAPIError, OperationalError

from db import revisions, server_versions
from db.errors import first_line

# Any number that is ours alone: "covenant" in ASCII, cut to 63 bits.
LOCK = int.from_bytes(b"covenant", "big") >> 1
# Whoever reads a table waits behind a migration that waits for it: seldom longer than this.
LOCK_TIMEOUT_MS = 300
MAX_ATTEMPTS = 10
RETRY_SECONDS = 1.0
LOCK_POLL_SECONDS = 0.1
CONNECT_PATIENCE = 120


class MigrationError(Exception):
    """One line that says why the schema was not changed."""


def upgrade(
    url: str, revision: str = "head", folder: Path = revisions.MIGRATIONS
) -> tuple[str | None, str]:
    """Upgrade to `revision` and return the revisions before and after. Raises `MigrationError`.

    `url` is the owner's, direct: a pooler in transaction mode would lose the advisory lock.
    """
    with _connected(url) as connection:
        before = _revision(connection)
        if before is None or before < revisions.newest(folder) or revision != "head":
            _with_retries(command.upgrade, connection, revision, folder)
        return before, _revision(connection) or ""


def downgrade(url: str, revision: str, folder: Path = revisions.MIGRATIONS) -> None:
    """Downgrade to `revision`, `base` for none. Raises `MigrationError`."""
    with _connected(url) as connection:
        _with_retries(command.downgrade, connection, revision, folder)


def _with_retries(
    change: Callable[[Config, str], None], connection: Connection, revision: str, folder: Path
) -> None:
    """Try again after a lock timeout: each revision is a transaction, or may be run again."""
    for attempt in range(MAX_ATTEMPTS):
        if attempt:
            time.sleep(RETRY_SECONDS)
        try:
            return change(_config(connection, folder), revision)
        except OperationalError as error:
            if not isinstance(error.orig, psycopg.errors.LockNotAvailable):
                raise
            connection.rollback()
    raise MigrationError(
        f"a lock was not to be had in {MAX_ATTEMPTS} attempts of {LOCK_TIMEOUT_MS} ms:"
        " another session holds the table"
    )


@contextmanager
def _connected(url: str) -> Iterator[Connection]:
    try:
        parts = psycopg.conninfo.conninfo_to_dict(url, connect_timeout=5)
    except psycopg.Error:  # what libpq says of it repeats the password
        raise MigrationError("MIGRATION_DATABASE_URL: not a URL that libpq understands") from None
    # Not by SET: a revision that waits where nobody waits for it ends that by RESET.
    parts["options"] = f"{parts.get('options') or ''} -c lock_timeout={LOCK_TIMEOUT_MS}"
    engine = create_engine(
        "postgresql+psycopg://",
        connect_args=parts,
        poolclass=NullPool,
        isolation_level="AUTOCOMMIT",
    )
    try:
        with engine.connect() as connection:
            _refuse_too_old(connection)
            _lock(connection)
            connection.commit()
            yield connection.execution_options(isolation_level="READ COMMITTED")
    except DBAPIError as error:
        raise MigrationError(first_line(error.orig or error)) from error
    except CommandError as error:
        raise MigrationError(first_line(error)) from error
    finally:
        engine.dispose()


def _refuse_too_old(connection: Connection) -> None:
    version = int(connection.execute(text("show server_version_num")).scalar_one())
    if version < server_versions.MINIMUM:
        raise MigrationError(f"PostgreSQL {version // 10_000} is too old: 15 or newer is needed")


def _lock(connection: Connection) -> None:
    """Poll: a session that waits for the lock would hold a snapshot, and a concurrent index
    build, which waits for all snapshots, would never end."""
    deadline = time.monotonic() + CONNECT_PATIENCE
    while not connection.execute(text(f"select pg_try_advisory_lock({LOCK})")).scalar_one():
        if time.monotonic() > deadline:
            raise MigrationError(f"another migration is running for more than {CONNECT_PATIENCE} s")
        time.sleep(LOCK_POLL_SECONDS)


def _revision(connection: Connection) -> str | None:
    """Return where the schema is; what is open when Alembic begins would hold all its revisions."""
    with connection.begin():
        known = connection.execute(text("select to_regclass('public.alembic_version')"))
        if known.scalar_one() is None:
            return None
        return connection.execute(text("select version_num from public.alembic_version")).scalar()


def _config(connection: Connection, folder: Path) -> Config:
    config = Config()
    config.set_main_option("script_location", _escaped(folder))
    config.set_main_option("path_separator", "newline")
    locations = "\n".join(map(_escaped, revisions.locations(folder)))
    config.set_main_option("version_locations", locations)
    config.attributes["connection"] = connection
    return config


def _escaped(folder: Path) -> str:
    """Alembic's options are those of configparser, which interpolates `%`."""
    return str(folder).replace("%", "%%")
