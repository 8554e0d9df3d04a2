"""PostgreSQL servers, and migrated databases with the two roles of the service."""

import os
import secrets
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psycopg
from psycopg.conninfo import conninfo_to_dict

from db import migrate, roles
from db.errors import first_line
from dev.local import embedded
from evidence.harness.processes import HarnessError, free_port

DATABASE = "covenant"


@dataclass(frozen=True)
class Database:
    """A migrated database: its URL for a superuser, and for the role of the service."""

    superuser_url: str
    app_url: str


class Postgres:
    """A server that can be stopped, killed and started again; it keeps its port and data."""

    def __init__(
        self,
        folder: Path,
        *,
        fsync: bool = False,
        options: tuple[str, ...] = (),
        primary: "Postgres | None" = None,
    ) -> None:
        """Prepare a server in `folder`; nothing starts yet.

        A copy of another server, such as a standby, shares the passwords of its `primary`.
        """
        self.folder, self.port = folder, free_port()
        self._fsync, self._options = fsync, options
        fresh = secrets.token_hex(16), secrets.token_hex(16)
        self._passwords: tuple[str, str] = primary._passwords if primary else fresh
        self._running: AbstractContextManager[embedded.Server] | None = None
        self._server: embedded.Server | None = None

    def prepare(self, *, migrated: bool = True) -> None:
        """Start, create the roles and the database, and migrate."""
        self.start()
        self.create_roles()
        roles.create_database(self.superuser_url("postgres"), DATABASE)
        if migrated:
            migrate.upgrade(self.owner_url)

    def create_roles(self) -> None:
        """Create the two roles, or set their passwords."""
        roles.create_roles(self.superuser_url("postgres"), *self._passwords)

    def start(self) -> None:
        """Start the server; the first start creates its data."""
        running = embedded.running(
            self.folder, fsync=self._fsync, port=self.port, options=self._options
        )
        self._server, self._running = running.__enter__(), running

    def stop(self) -> None:
        """Stop the server; it disconnects clients immediately (fast shutdown)."""
        running, self._running = self._running, None
        if running:
            running.__exit__(None, None, None)

    def kill(self) -> None:
        """Send SIGKILL. Unflushed data is lost; the next start replays the write-ahead log."""
        os.kill(self.pid, signal.SIGKILL)
        self.stop()

    @property
    def pid(self) -> int:
        """Return the process id of the postmaster."""
        return int((self.folder / "data" / "postmaster.pid").read_text().split("\n")[0])

    def superuser_url(self, database: str = DATABASE) -> str:
        """Return the URL of a superuser. Raises `HarnessError` before the first start."""
        if self._server is None:
            raise HarnessError("PostgreSQL was not started")
        return self._server.url(database=database)

    @property
    def owner_url(self) -> str:
        return self.url(roles.OWNER, self._passwords[0])

    @property
    def app_url(self) -> str:
        return self.url(roles.APP, self._passwords[1])

    def url(self, user: str, password: str) -> str:
        return f"postgresql://{user}:{password}@127.0.0.1:{self.port}/{DATABASE}"

    def execute(self, sql: str) -> None:
        """Execute a statement as a superuser."""
        execute(self.superuser_url(), sql)

    def rows(self, sql: str) -> list[tuple[object, ...]]:
        """Return the rows of a query, run as a superuser."""
        with psycopg.connect(self.superuser_url()) as connection:
            return connection.execute(sql.encode()).fetchall()


@contextmanager
def postgres(
    folder: Path, *, fsync: bool = False, options: tuple[str, ...] = (), migrated: bool = True
) -> Iterator[Postgres]:
    """Run a server that is ready to use until the end of the block."""
    server = Postgres(folder / "postgresql", fsync=fsync, options=options)
    try:
        server.prepare(migrated=migrated)
        yield server
    finally:
        server.stop()


@contextmanager
def any_server(folder: Path) -> Iterator[str]:
    """Yield a superuser's URL: TEST_DATABASE_URL, or that of an embedded server in `folder`.

    Raises `HarnessError`.
    """
    if given := os.environ.get("TEST_DATABASE_URL"):
        yield given
        return
    try:
        with embedded.running(folder / "postgresql", fsync=False) as started:
            yield started.url()
    except embedded.EmbeddedError as error:
        raise HarnessError(str(error)) from error


@contextmanager
def new_database(superuser_url: str, prefix: str) -> Iterator[Database]:
    """Yield a new migrated database, and drop it at the end. Raises `HarnessError`."""
    owner, app = secrets.token_hex(16), secrets.token_hex(16)
    name = f"{prefix}_{secrets.token_hex(4)}"
    url = urls(superuser_url, name)
    with passwords_restored(superuser_url):
        try:
            roles.create_roles(superuser_url, owner, app)
            roles.create_database(superuser_url, name)
            migrate.upgrade(url(roles.OWNER, owner))
        except (psycopg.Error, migrate.MigrationError) as error:
            raise HarnessError(f"cannot create a database: {first_line(error)}") from error
        try:
            yield Database(url(), url(roles.APP, app))
        finally:
            execute(superuser_url, f'drop database if exists "{name}" with (force)')


@contextmanager
def passwords_restored(superuser_url: str) -> Iterator[None]:
    """Restore the passwords of the two roles at the end, for other users of the server."""
    query = (
        "select quote_ident(rolname), rolpassword from pg_authid"
        " where rolname = any (%s) and rolpassword is not null"
    )
    try:
        with psycopg.connect(superuser_url) as connection:
            before = connection.execute(query, ([roles.OWNER, roles.APP],)).fetchall()
    except psycopg.Error as error:
        raise HarnessError(f"cannot connect to PostgreSQL: {first_line(error)}") from error
    try:
        yield
    finally:
        for role, password in before:
            execute(superuser_url, f"alter role {role} password '{password}'")


def urls(
    base: str, database: str, host: str | None = None, port: int | None = None
) -> Callable[..., str]:
    """Return a function that returns the URL of `database` for a user and password.

    Whatever is not given comes from `base`, the URL of another database or user.
    """
    parts = conninfo_to_dict(base)

    def url(user: str | None = None, password: str | None = None) -> str:
        login = user or str(parts["user"]), password or str(parts.get("password") or "")
        name, secret = (quote(part, safe="") for part in login)
        address = f"{host or parts.get('host') or 'localhost'}:{port or parts.get('port') or 5432}"
        return f"postgresql://{name}:{secret}@{address}/{database}"

    return url


def execute(url: str, sql: str) -> None:
    """Execute a statement outside a transaction."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(sql.encode())
