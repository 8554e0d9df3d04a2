"""`make dev`: `make run` that restarts the service when the contract or the code changes.

A new service starts only if its contract is valid and the database is up to date. Until then the
last good service keeps running.
"""

import math
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from dev.local import stack

WATCHED = ("openapi", "handlers", "service", "db")
SUFFIXES = (".py", ".yaml", ".json")
POLL_SECONDS = 0.3
MIGRATION_RETRY_SECONDS = 3.0
STOP_TIMEOUT_SECONDS = 15.0

Process = subprocess.Popen[bytes]


def watch() -> None:
    """Serve and follow the files until a signal."""
    stack.run_with_local_stack(_serve_and_follow)


def _serve_and_follow() -> None:
    signals: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda n, _: signals.append(n))
    before = _modification_times()  # before the service reads the files, so no change is missed
    service, retry_at = _start(), math.inf
    while not signals:
        time.sleep(POLL_SECONDS)
        after = _modification_times()
        has_changed = after != before
        if not has_changed and time.monotonic() < retry_at:
            continue
        before, retry_at = after, math.inf
        if has_changed and not _is_valid():
            print(f"dev: rejected; {_state(service)}", flush=True)
        elif stack.migrate():  # the database may have failed, so retry without a change too
            retry_at = time.monotonic() + MIGRATION_RETRY_SECONDS
            delay = f"retrying in {MIGRATION_RETRY_SECONDS:.0f} s"
            print(f"dev: not migrated; {_state(service)}; {delay}", flush=True)
        else:
            print("dev: changed; restarting", flush=True)
            _stop(service)
            service = _start()
    _stop(service)


def _state(service: Process) -> str:
    """Say what serves; a file written during a restart may have ended the new service."""
    is_running = service.poll() is None
    return "the last good service keeps running" if is_running else "no service is running"


def _modification_times() -> dict[Path, int]:
    files = (file for folder in WATCHED for file in Path(folder).rglob("*"))
    times = {}
    for file in files:
        if file.suffix in SUFFIXES:
            with suppress(FileNotFoundError):
                times[file] = file.stat().st_mtime_ns
    return times


def _is_valid() -> bool:
    """Load the contract and assemble the service in a new process, which prints the errors."""
    check = [sys.executable, "-m", "service", "check"]
    result = subprocess.run(check, env=_serving_environment(), check=False, start_new_session=True)
    return result.returncode == 0


def _start() -> Process:
    return subprocess.Popen(
        [sys.executable, "-m", "service", "serve"],
        env={**_serving_environment(), "DRAIN_SECONDS": "0"},
        start_new_session=True,
    )


def _serving_environment() -> dict[str, str]:
    """Return the environment without the owner's password."""
    return {name: value for name, value in os.environ.items() if name != stack.OWNER_URL}


def _stop(service: Process) -> None:
    service.send_signal(signal.SIGTERM)
    try:
        service.wait(STOP_TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        service.kill()
        service.wait()
