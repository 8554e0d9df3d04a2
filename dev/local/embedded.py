"""Runs PostgreSQL for `make run` and the tests when no server is configured."""

import fcntl
import os
import secrets
import shutil
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from dev.local import child_process
from dev.local.binaries import MAJOR_VERSION, EmbeddedError, binary, runnable_initdb
from dev.local.child_process import Process

__all__ = ["MAJOR_VERSION", "EmbeddedError", "Server", "binary", "running"]

HOST = "127.0.0.1"
START_TIMEOUT_SECONDS = 60.0
LOCK_TIMEOUT_SECONDS = 10.0
PORT_ATTEMPTS = 5
_NOBODY = 65534  # uid and gid that root changes to; initdb requires a uid with a name
_INITDB_OPTIONS = ["-U", "postgres", "-A", "scram-sha-256", "-E", "UTF8", "--locale=C"]
_INITDB_OPTIONS += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
_SERVER_OPTIONS = ["-h", HOST, "--unix_socket_directories=", "--max_connections=100"]
_SERVER_OPTIONS += ["--timezone=UTC", "--log_timezone=UTC"]
_NO_FSYNC_OPTIONS = ["--fsync=off", "--full_page_writes=off"]


@dataclass(frozen=True)
class Server:
    """A running PostgreSQL with its data, password and log in `directory`."""

    host: str
    port: int
    password: str = field(repr=False)
    directory: Path
    process: Process = field(repr=False, compare=False)

    @property
    def log(self) -> Path:
        """The server's log file."""
        return _log_file(self.directory)

    def url(
        self, user: str = "postgres", password: str | None = None, database: str = "postgres"
    ) -> str:
        """Return a libpq URL; its default user and password are the superuser's."""
        secret = self.password if password is None else password
        user, secret, database = (quote(part, safe="") for part in (user, secret, database))
        return f"postgresql://{user}:{secret}@{self.host}:{self.port}/{database}"

    def has_exited(self) -> bool:
        """Return whether the server has ended."""
        return self.process.poll() is not None


@contextmanager
def running(
    directory: Path, *, fsync: bool = True, port: int | None = None, options: Sequence[str] = ()
) -> Iterator[Server]:
    """Run PostgreSQL with its data in `directory` until the end of the block.

    The first run creates the data with initdb. The server ends with this process and, on Linux,
    with the calling thread. Without `fsync` it is faster, and a crash of the machine loses data.
    `port` defaults to a free one; `options` are the server's, such as `--max_wal_senders=4`.
    Raises `EmbeddedError`.
    """
    with ExitStack() as stack:
        try:
            server = _start(
                directory.absolute(), fsync=fsync, port=port, options=options, stack=stack
            )
        except OSError as error:
            raise EmbeddedError(f"cannot run PostgreSQL in {directory}: {error}") from error
        yield server


def _start(
    directory: Path, *, fsync: bool, port: int | None, options: Sequence[str], stack: ExitStack
) -> Server:
    if os.geteuid() == 0 and sys.platform != "linux":
        raise EmbeddedError("PostgreSQL cannot run as root: use another user")
    postgres, data = binary("postgres"), directory / "data"
    log = _lock_directory(directory, stack)
    if not data.exists():
        _create_data(directory, log, fsync=fsync)
    if (major := (data / "PG_VERSION").read_text().strip()) != str(MAJOR_VERSION):
        raise EmbeddedError(
            f"{data} was created by PostgreSQL {major}, this is PostgreSQL {MAJOR_VERSION}:"
            " move or delete it"
        )
    password = (directory / "password").read_text()
    _remove_stale_pid_file(data)
    command = [str(postgres), "-D", str(data), *_SERVER_OPTIONS]
    command += [*([] if fsync else _NO_FSYNC_OPTIONS), *options]
    for _ in range(PORT_ATTEMPTS):
        chosen = port or _free_port()
        process = child_process.spawn([*command, "-p", str(chosen)], data, log)
        stack.callback(child_process.stop, process)
        if _wait_until_ready(process, data):
            return Server(HOST, chosen, password, directory, process)
        # Another process may have taken the port since.
        if "could not create any TCP/IP sockets" not in _read_log(directory):
            break
    timeout = f" within {START_TIMEOUT_SECONDS:.0f} s" if process.poll() is None else ""
    raise EmbeddedError(f"PostgreSQL did not start{timeout}: {_failure_reason(directory)}")


def _lock_directory(directory: Path, stack: ExitStack) -> int:
    """Lock `directory` until `stack` closes, and return a descriptor of its log.

    This process alone has the lock on the directory, so a second run is rejected at once. All
    processes of the server share the lock on the log through stderr. If this process is killed,
    the next run waits there until they have all stopped.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(directory, os.O_RDONLY)
    stack.callback(os.close, descriptor)
    if not _lock(descriptor, timeout=0):
        raise EmbeddedError(f"{directory} is in use by another run: stop that run first")
    log = os.open(_log_file(directory), os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    stack.callback(os.close, log)
    if not _lock(log, timeout=LOCK_TIMEOUT_SECONDS):
        raise EmbeddedError(
            f"{directory} is in use: the server of a killed run has not stopped. End its processes"
        )
    return log


def _lock(descriptor: int, *, timeout: float) -> bool:
    """Return whether the lock was acquired within `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.02)


def _create_data(directory: Path, log: int, *, fsync: bool) -> None:
    """Create the password and the data; the rename at the end makes them count."""
    password, new = directory / "password", directory / "data.new"
    password.unlink(missing_ok=True)
    password.touch(0o600)
    password.write_text(secrets.token_urlsafe(32))
    while new.exists():
        with suppress(FileNotFoundError):  # an interrupted initdb may still be cleaning up
            shutil.rmtree(new)
    new.mkdir(0o700)
    if os.geteuid() == 0:
        with suppress(OSError):  # not permitted in every container; the launcher copes with that
            os.chown(new, _NOBODY, _NOBODY)
    with runnable_initdb() as initdb:
        command = [str(initdb), "-D", str(new), f"--pwfile={password}", *_INITDB_OPTIONS]
        process = child_process.spawn([*command, *([] if fsync else ["--no-sync"])], new, log)
        try:
            exit_code = process.wait()
        finally:
            child_process.stop(process)
    if exit_code != 0:
        raise EmbeddedError(f"initdb failed: {_failure_reason(directory)}")
    if fsync:
        _flush(password)
    new.rename(directory / "data")
    if fsync:
        _flush(directory)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def _remove_stale_pid_file(data: Path) -> None:
    """Remove the pid file of a killed server: PostgreSQL does not start if its pid is in use again.

    We have the lock on the log, so no server of ours is running. Line 5 names the socket directory
    of a server that was started by hand; that file is kept.
    """
    pid_file = data / "postmaster.pid"
    if pid_file.exists() and pid_file.read_text().split("\n")[4:5] == [""]:
        pid_file.unlink()


def _free_port() -> int:
    with socket.create_server((HOST, 0)) as probe:
        return int(probe.getsockname()[1])


def _wait_until_ready(process: Process, data: Path) -> bool:
    """Return whether the server became ready, which line 8 of its pid file says.

    False if it has ended, or after `START_TIMEOUT_SECONDS`.
    """
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(FileNotFoundError):
            lines = (data / "postmaster.pid").read_text().split("\n")
            if lines[:1] + lines[7:8] == [str(process.pid), "ready   "]:
                return True
        time.sleep(0.01)
    return False


def _log_file(directory: Path) -> Path:
    return directory / "server.log"


def _read_log(directory: Path) -> str:
    return _log_file(directory).read_text(errors="replace")


def _failure_reason(directory: Path) -> str:
    """Return the first line of the log that names a cause, else its last line."""
    lines = [line for line in _read_log(directory).splitlines() if line.strip()]
    lines = lines or ["the log is empty"]
    markers = ("FATAL:", "PANIC:", "error:")
    return next((line for line in lines if any(m in line for m in markers)), lines[-1])
