"""Child processes: start, wait for and stop them, and read their logs."""

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SBIN = "/usr/sbin:/usr/local/sbin"  # rarely in the PATH of a user
STOP_TIMEOUT_SECONDS = 10.0
POLL_INTERVAL_SECONDS = 0.02
MAX_LINE_LENGTH = 600

Process = subprocess.Popen[bytes]


class HarnessError(Exception):
    """Something could not be started, or ended early. The message is one line."""


def spawn(
    command: Sequence[str],
    log: Path,
    *,
    environment: Mapping[str, str] | None = None,
    folder: Path = ROOT,
) -> Process:
    """Start a command in `folder` that logs to `log`. It is terminated when this process ends."""
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=output,
            preexec_fn=end_with_parent,
        )


@contextmanager
def running(
    command: Sequence[str],
    log: Path,
    *,
    environment: Mapping[str, str] | None = None,
    folder: Path = ROOT,
) -> Iterator[Process]:
    """Run a command until the end of the block."""
    process = spawn(command, log, environment=environment, folder=folder)
    try:
        yield process
    finally:
        stop(process)


def stop(process: Process) -> None:
    """Send SIGTERM, then SIGKILL after `STOP_TIMEOUT_SECONDS`."""
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(STOP_TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def end_with_parent() -> None:
    """On Linux, let the kernel send this process SIGTERM when its parent ends (prctl(2))."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, int(signal.SIGTERM), 0, 0, 0)  # PR_SET_PDEATHSIG


def find_program(name: str) -> str | None:
    """Return the path of a program, or None when it is not installed."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:{SBIN}")


def free_port() -> int:
    """Return a TCP port on the loopback interface that is free at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], object], timeout: float) -> bool:
    """Poll until `condition` is true, and return True; return False after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_INTERVAL_SECONDS)
    return True


def last_line(log: Path) -> str:
    """Return the last line of a log that is not blank, cut to `MAX_LINE_LENGTH` characters."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:MAX_LINE_LENGTH] if lines else "the log is empty"
