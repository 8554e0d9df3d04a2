"""What a certificate is made on: a PostgreSQL, a database of its own, a pooler, the service."""

import ctypes
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from urllib.parse import quote

import psycopg
from psycopg.conninfo import conninfo_to_dict

from db import migrate, roles
from db.errors import first_line
from dev.local import embedded

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 40.0
PLACES = "/usr/sbin:/usr/local/sbin"  # seldom in the PATH of a user


class StageError(Exception):
    """What the certificate is made on cannot be set up, or ends: one line."""


@dataclass(frozen=True)
class Database:
    """A database at the newest revision, by the two who look at it."""

    superuser_url: str
    app_url: str


@dataclass(frozen=True)
class Service:
    """A running service; its keys are known where the certificate started it."""

    host: str
    port: int
    keys_dir: Path | None


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """Yield a superuser's URL: that of TEST_DATABASE_URL, or of an embedded server."""
    if given := os.environ.get("TEST_DATABASE_URL"):
        yield given
        return
    try:
        with embedded.running(folder / "postgresql", fsync=False) as started:
            yield started.url()
    except embedded.EmbeddedError as error:
        raise StageError(str(error)) from error


@contextmanager
def database(superuser_url: str, planted: str = "", undo: str = "") -> Iterator[Database]:
    """Yield a new database, migrated; `planted` is SQL that spoils it, `undo` heals the server."""
    owner, app = secrets.token_hex(16), secrets.token_hex(16)
    name = f"certify_{secrets.token_hex(4)}"
    url = urls(superuser_url, name)
    with passwords_kept(superuser_url):
        try:
            roles.make_roles(superuser_url, owner, app)
            roles.make_database(superuser_url, name)
            migrate.upgrade(url(roles.OWNER, owner))
            made = Database(url(), url(roles.APP, app))
            if planted:
                execute(made.superuser_url, planted)
        except (psycopg.Error, migrate.MigrationError) as error:
            raise StageError(f"the database: {first_line(error)}") from error
        try:
            yield made
        finally:
            if undo:
                execute(made.superuser_url, undo)
            execute(superuser_url, f'drop database if exists "{name}" with (force)')


@contextmanager
def serving(folder: Path, database_url: str) -> Iterator[Service]:
    """Run the service of this tree with one connection of each kind. Raises `StageError`."""
    keys_dir, log = folder / "keys", folder / "service.log"
    keys_dir.mkdir(parents=True)
    kid = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(time.time() - 60))
    (keys_dir / kid).write_text(secrets.token_hex(32))
    port = free_port()
    settings = {
        "DATABASE_URL": database_url,
        "DATABASE_CONNECTIONS": "1",
        "KEYS_DIR": str(keys_dir),
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "RATE_LIMITS": "false",
        "DRAIN_SECONDS": "0",
        "VALIDATE_RESPONSES": "true",
        "LOG_FORMAT": "json",
    }
    process = spawn(log, settings)
    try:
        wait(lambda: is_ready(port) or process.poll() is not None)
        if process.poll() is not None or not is_ready(port):
            raise StageError(f"the service does not start: {last_line(log)}")
        yield Service("127.0.0.1", port, keys_dir)
        if process.poll() is not None:
            raise StageError(f"the service ended: {last_line(log)}")
    finally:
        stop(process)


def spawn(
    log: Path, settings: Mapping[str, str], command: str = "serve", tree: Path = ROOT
) -> "subprocess.Popen[bytes]":
    """Start a command of the service of `tree` with these settings; it ends with this process."""
    kept = {k: v for k, v in os.environ.items() if k not in ("MIGRATION_DATABASE_URL", "REDIS_URL")}
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "service", command],
            cwd=tree,
            env={**kept, **settings},
            stdout=output,
            stderr=output,
            preexec_fn=end_with_parent,
        )


@contextmanager
def pooler(folder: Path, app_url: str, size: int = 1) -> Iterator[str]:
    """Yield the URL through a PgBouncer in transaction mode with a pool of `size`."""
    pgbouncer = program("pgbouncer")
    if pgbouncer is None:
        raise StageError("no pgbouncer")
    parts, port = conninfo_to_dict(app_url), free_port()
    users, settings, log = (folder / name for name in ("users.txt", "pgbouncer.ini", "log"))
    users.write_text(f'"{parts["user"]}" "{parts["password"]}"\n')
    settings.write_text(
        f"""[databases]
{parts["dbname"]} = host={parts["host"]} port={parts["port"]} dbname={parts["dbname"]}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {users}
pool_mode = transaction
default_pool_size = {size}
query_wait_timeout = 5
server_login_retry = 0.2
"""
    )
    command = [pgbouncer, str(settings)]
    if os.geteuid() == 0:  # it refuses to be root
        command[1:1] = ["-u", "nobody"]
        nobody = pwd.getpwnam("nobody").pw_uid
        for path in (folder, users, settings):
            os.chown(path, nobody, -1)
        folder.parent.chmod(0o711)  # the run's own folder
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, preexec_fn=end_with_parent
        )
    url = urls(app_url, str(parts["dbname"]), "127.0.0.1", port)()
    try:
        wait(lambda: connects(url) or process.poll() is not None)
        if not connects(url):
            raise StageError(f"pgbouncer does not start: {last_line(log)}")
        yield url
    finally:
        stop(process)


def program(name: str) -> str | None:
    """Return the path of a program, None where there is none."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:{PLACES}")


def end_with_parent() -> None:
    """Ask Linux to end this process with its parent, also when that is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, int(signal.SIGTERM), 0, 0, 0)  # PR_SET_PDEATHSIG


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def stop(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def urls(
    base: str, database: str, host: str | None = None, port: int | None = None
) -> Callable[..., str]:
    parts = conninfo_to_dict(base)

    def url(user: str | None = None, password: str | None = None) -> str:
        name, secret = user or str(parts["user"]), password or str(parts.get("password") or "")
        name, secret = quote(name, safe=""), quote(secret, safe="")
        place = f"{host or parts.get('host') or 'localhost'}:{port or parts.get('port') or 5432}"
        return f"postgresql://{name}:{secret}@{place}/{database}"

    return url


@contextmanager
def passwords_kept(superuser_url: str) -> Iterator[None]:
    """Give the roles that there are already their passwords back: others may use the server."""
    query = (
        "select quote_ident(rolname), rolpassword from pg_authid"
        " where rolname = any (%s) and rolpassword is not null"
    )
    try:
        with psycopg.connect(superuser_url) as connection:
            kept = connection.execute(query, ([roles.OWNER, roles.APP],)).fetchall()
    except psycopg.Error as error:
        raise StageError(f"the database: {first_line(error)}") from error
    try:
        yield
    finally:
        for role, password in kept:
            execute(superuser_url, f"alter role {role} password '{password}'")


def execute(url: str, sql: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(sql.encode())


def wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)


def is_ready(port: int) -> bool:
    connection = HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/ready")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def connects(url: str) -> bool:
    try:
        with psycopg.connect(url, connect_timeout=2, prepare_threshold=None) as connection:
            return connection.execute("select 1").fetchone() == (1,)
    except psycopg.Error:
        return False


def last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:600] if lines else "it says nothing"
