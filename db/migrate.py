"""Migrates the schema to a revision, under an advisory lock: several processes may run it at once.

`python -m service migrate` calls `main`.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import psycopg
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, NullPool, create_engine, text
from sqlalchemy.exc import DBAPIError, OperationalError

from db import revisions, server_versions
from db.errors import first_line
from db.revisions import RevisionError

URL_SETTING = "MIGRATION_DATABASE_URL"
ADVISORY_LOCK_ID = int.from_bytes(b"covenant", "big") >> 1  # a bigint that nothing else uses
# A migration that waits for a table's lock blocks the readers behind it: at most for this long.
LOCK_TIMEOUT_MS = 300
MAX_ATTEMPTS = 10
RETRY_SECONDS = 1.0
CONNECT_TIMEOUT_SECONDS = 5
ADVISORY_LOCK_TIMEOUT_SECONDS = 120
ADVISORY_LOCK_POLL_SECONDS = 0.1


class MigrationError(Exception):
    """One line that says why the schema was not migrated."""


def main() -> None:
    """Migrate `MIGRATION_DATABASE_URL`, whose user must be the owner, to the newest revision.

    Prints the revisions before and after; exits 1 with one line on stderr on failure.
    """
    # PID 1 of a container has no default action for SIGTERM.
    signal.signal(signal.SIGTERM, lambda *_: _exit_with("migrate: stopped by SIGTERM", 143))
    url = os.environ.get(URL_SETTING)
    if not url:
        _exit_with(f"{URL_SETTING}: is missing")
    try:
        before, after = upgrade(url)
    except MigrationError as error:
        _exit_with(f"migrate: {error}")
    is_unchanged = before == after
    print(f"migrate: at {after}" if is_unchanged else f"migrate: {before} -> {after}")


def _exit_with(message: str, code: int = 1) -> NoReturn:
    print(message, file=sys.stderr)
    raise SystemExit(code)


def upgrade(
    url: str, revision: str = "heads", folder: Path = revisions.MIGRATIONS
) -> tuple[str, str]:
    """Upgrade to `revision` and return the heads of the schema before and after, `none` if empty.

    `url` must be the owner's and connect directly: a pooler in transaction mode would lose the
    advisory lock. Raises `MigrationError`, also when the schema belongs to another branch.
    """
    try:
        known = revisions.read(folder)
    except RevisionError as error:
        raise MigrationError(str(error)) from error
    with _connect(url) as connection:
        before = _applied(connection)
        if unknown := known.unknown(before):
            raise MigrationError(
                f"the database has revision {revisions.label(unknown)}, which is not in {folder}:"
                " another branch has migrated it, or the revision was renumbered. Use another"
                " database, or downgrade this one with the revisions of that branch"
            )
        if known.missing(before) or revision != "heads":
            _run_with_retries(command.upgrade, connection, revision, folder)
        after = _applied(connection)
        if revision == "heads" and (missing := known.missing(after)):
            raise MigrationError(f"{revisions.label(missing)}: not applied")
        return revisions.label(before), revisions.label(after)


def downgrade(url: str, revision: str, folder: Path = revisions.MIGRATIONS) -> None:
    """Downgrade to `revision`, or to an empty schema for `base`. Raises `MigrationError`."""
    with _connect(url) as connection:
        _run_with_retries(command.downgrade, connection, revision, folder)


def _run_with_retries(
    run: Callable[[Config, str], None], connection: Connection, revision: str, folder: Path
) -> None:
    """Retry after a lock timeout: each revision is one transaction, or is safe to re-run."""
    for attempt in range(MAX_ATTEMPTS):
        if attempt:
            time.sleep(RETRY_SECONDS)
        try:
            return run(_alembic_config(connection, folder), revision)
        except OperationalError as error:
            if not isinstance(error.orig, psycopg.errors.LockNotAvailable):
                raise
            connection.rollback()
    raise MigrationError(
        f"could not acquire a lock after {MAX_ATTEMPTS} attempts of {LOCK_TIMEOUT_MS} ms: another"
        " session is using the table. End that session, or run make migrate later"
    )


@contextmanager
def _connect(url: str) -> Iterator[Connection]:
    try:
        parameters = psycopg.conninfo.conninfo_to_dict(url, connect_timeout=CONNECT_TIMEOUT_SECONDS)
    except psycopg.Error:  # libpq's message would repeat the password
        raise MigrationError(f"{URL_SETTING}: is not a URL that libpq understands") from None
    # As an option, not by SET, because revisions that build an index RESET lock_timeout.
    parameters["options"] = f"{parameters.get('options') or ''} -c lock_timeout={LOCK_TIMEOUT_MS}"
    engine = create_engine(
        "postgresql+psycopg://",
        connect_args=parameters,
        poolclass=NullPool,
        isolation_level="AUTOCOMMIT",
    )
    try:
        with engine.connect() as connection:
            _check_server_version(connection)
            _acquire_advisory_lock(connection)
            connection.commit()
            yield connection.execution_options(isolation_level="READ COMMITTED")
    except DBAPIError as error:
        raise MigrationError(first_line(error.orig or error)) from error
    except CommandError as error:
        raise MigrationError(first_line(error)) from error
    finally:
        engine.dispose()


def _check_server_version(connection: Connection) -> None:
    version = int(connection.execute(text("show server_version_num")).scalar_one())
    if reason := server_versions.unsupported_reason(version):
        raise MigrationError(reason)


def _acquire_advisory_lock(connection: Connection) -> None:
    """Poll for the lock: a session blocked in `pg_advisory_lock` would keep a snapshot, for which a
    concurrent index build in the session that has the lock would wait forever."""
    deadline = time.monotonic() + ADVISORY_LOCK_TIMEOUT_SECONDS
    query = text(f"select pg_try_advisory_lock({ADVISORY_LOCK_ID})")
    while not connection.execute(query).scalar_one():
        if time.monotonic() > deadline:
            raise MigrationError(
                f"another migration has been running for {ADVISORY_LOCK_TIMEOUT_SECONDS} s:"
                " wait for it, or end its session"
            )
        time.sleep(ADVISORY_LOCK_POLL_SECONDS)


def _applied(connection: Connection) -> frozenset[str]:
    """Return the heads of the schema; none before the first revision.

    It reads in a transaction that ends here: if one were open when Alembic starts, all revisions
    would run in it.
    """
    with connection.begin():
        table = connection.execute(text("select to_regclass('public.alembic_version')"))
        if table.scalar_one() is None:
            return frozenset()
        rows = connection.execute(text("select version_num from public.alembic_version"))
        return frozenset(rows.scalars())


def _alembic_config(connection: Connection, folder: Path) -> Config:
    config = Config()
    config.set_main_option("script_location", _escaped(folder))
    config.set_main_option("path_separator", "newline")
    locations = "\n".join(map(_escaped, revisions.locations(folder)))
    config.set_main_option("version_locations", locations)
    config.attributes["connection"] = connection
    return config


def _escaped(folder: Path) -> str:
    """Return a path as a value of Alembic's options: configparser interpolates `%`."""
    return str(folder).replace("%", "%%")
