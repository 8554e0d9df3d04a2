"""Starts and stops child processes that do not outlive this one."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from dev.local.launcher import ParentWatch

STOP_TIMEOUT_SECONDS = 10.0  # for each signal
PARENT_WATCH = ParentWatch.SIGNAL if sys.platform == "linux" else ParentWatch.WATCHDOG
_LAUNCHER = str(Path(__file__).with_name("launcher.py"))

Process = subprocess.Popen[bytes]


def spawn(command: list[str], data: Path, log: int) -> Process:
    """Start `command` as the owner of the data directory `data`; its output replaces the log.

    Through `launcher.py`, because a preexec_fn may deadlock in a process with threads. Raises
    `OSError`.
    """
    os.ftruncate(log, 0)
    return subprocess.Popen(
        [sys.executable, "-IS", _LAUNCHER, PARENT_WATCH, str(os.getpid()), str(data), *command],
        stdin=subprocess.PIPE,  # never written; its end tells the watchdog that this process ended
        stdout=log,
        stderr=log,
        cwd=data.parent,
        env=os.environ | {"LC_ALL": "C"},
        start_new_session=True,  # Ctrl-C reaches the service first, which then stops the server
    )


def stop(process: Process) -> None:
    """Stop PostgreSQL: fast, then immediate shutdown, then SIGKILL (PostgreSQL 18, 18.5)."""
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
        process.send_signal(number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT_SECONDS)
            break
    if process.stdin:
        process.stdin.close()
