"""`make dev`: `make run` that starts again when the contract or the code changes.

The new service is started only when its contract is accepted and the database is at the newest
revision; until then the last good one goes on serving.
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
RETRY_SECONDS = 3.0  # seconds until a migration that failed is tried again


def watch() -> None:
    """Serve and follow the files until a signal."""
    stack.with_local_stack(_follow)


def _follow() -> None:
    stopped: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda n, _: stopped.append(n))
    seen = _stamp()  # before the service reads them: what changes from now on starts it again
    service, again = _start(), math.inf
    while not stopped:
        time.sleep(POLL_SECONDS)
        now = _stamp()
        changed = now != seen
        if not changed and time.monotonic() < again:
            continue
        seen, again = now, math.inf
        if changed and not _accepted():
            print(f"dev: refused, {_rest(service)}", flush=True)
        elif stack.migrate():  # it may have been the database, and no file
            again = time.monotonic() + RETRY_SECONDS
            print(
                f"dev: not migrated, {_rest(service)}, again in {RETRY_SECONDS:.0f} s", flush=True
            )
        else:
            print("dev: changed, starting again", flush=True)
            _stop(service)
            service = _start()
    _stop(service)


def _rest(service: "subprocess.Popen[bytes]") -> str:
    """A file that is written while the service starts again can end the new one."""
    serves = service.poll() is None
    return "the last good service goes on" if serves else "nothing serves until it is right"


def _stamp() -> dict[Path, int]:
    files = (file for folder in WATCHED for file in Path(folder).rglob("*"))
    stamps = {}
    for file in files:
        if file.suffix in SUFFIXES:
            with suppress(FileNotFoundError):
                stamps[file] = file.stat().st_mtime_ns
    return stamps


def _accepted() -> bool:
    """Load the contract and assemble the service as the new process would."""
    check = [sys.executable, "-m", "service", "check"]
    done = subprocess.run(check, env=_environment(), check=False, start_new_session=True)
    return done.returncode == 0


def _start() -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "service", "serve"],
        env={**_environment(), "DRAIN_SECONDS": "0"},
        start_new_session=True,
    )


def _environment() -> dict[str, str]:
    """The owner's password is not for the serving process."""
    return {name: value for name, value in os.environ.items() if name != stack.OWNER_URL}


def _stop(service: "subprocess.Popen[bytes]") -> None:
    service.send_signal(signal.SIGTERM)
    try:
        service.wait(15)
    except subprocess.TimeoutExpired:
        service.kill()
        service.wait()
