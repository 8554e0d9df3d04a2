"""The service as a process of its own, on a port that it keeps when it is started again."""

import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from evidence.harness import processes
from evidence.harness.processes import ROOT, HarnessError, Process, free_port, wait_until
from service.identity import keys

READY_TIMEOUT_SECONDS = 40.0
SERVE = ("-m", "service", "serve")
# Of this process's environment, what a service under test must not inherit.
NOT_INHERITED = frozenset({"MIGRATION_DATABASE_URL", "REDIS_URL"})


class Service:
    """One service process. Its keys, log and port outlive a restart."""

    def __init__(
        self,
        folder: Path,
        database_url: str,
        *,
        command: tuple[str, ...] = SERVE,
        tree: Path = ROOT,
        environment: Mapping[str, str] | None = None,
        **settings: str,
    ) -> None:
        """Keep log and keys in `folder`; `tree` holds the code.

        `settings` replace the defaults below; `environment` holds further variables.
        """
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / f"service-{self.port}.log"
        self.keys_dir = Path(settings.get("KEYS_DIR", folder / "keys"))
        if not self.keys_dir.exists():
            keys.create_key(self.keys_dir, time.time() - 86_400)
        self.settings = {
            "DATABASE_URL": database_url,
            "KEYS_DIR": str(self.keys_dir),
            "PORT": str(self.port),
            "GUEST_LIMIT": "off",
            "DRAIN_SECONDS": "0.2",
            "LOG_FORMAT": "json",
            **(environment or {}),
            **settings,
        }
        self._command = [sys.executable, *command]
        self._tree = tree
        self._process: Process | None = None

    @property
    def process(self) -> Process:
        """The running process. Raises `HarnessError` before the first start."""
        if self._process is None:
            raise HarnessError("the service was not started")
        return self._process

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def is_running(self) -> bool:
        return self.process.poll() is None

    def start(self, *, ready: bool = True) -> None:
        """Start it and, with `ready`, wait until /ready answers 200. Raises `HarnessError`."""
        self._process = processes.spawn(
            self._command, self.log, environment=inherited() | self.settings, folder=self._tree
        )
        if ready:
            wait_until(lambda: self.ready() == 200 or not self.is_running, READY_TIMEOUT_SECONDS)
            if self.ready() != 200:
                self.stop()
                reason = processes.last_line(self.log)
                raise HarnessError(f"the service does not start: {reason}")

    def send_signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            self.process.send_signal(number)

    def wait(self, timeout: float = 30.0) -> int:
        """Return the exit code. Raises `subprocess.TimeoutExpired`."""
        return self.process.wait(timeout)

    def terminate(self, number: int = signal.SIGTERM, timeout: float = 20.0) -> int:
        """Signal the service and return its exit code."""
        self.send_signal(number)
        return self.wait(timeout)

    def stop(self) -> None:
        if self._process:
            processes.stop(self._process)

    def ready(self) -> int:
        """Return the status of /ready, 0 when nothing answers."""
        return self._status("/ready")

    def health(self) -> int:
        """Return the status of /health, 0 when nothing answers."""
        return self._status("/health")

    def log_text(self) -> str:
        """Return the complete lines of the log; the last one may still be being written."""
        text = self.log.read_text(errors="replace")
        return text[: text.rfind("\n") + 1]

    def log_lines(self) -> list[str]:
        return self.log_text().splitlines()

    def _status(self, path: str) -> int:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except (OSError, HTTPException):
            return 0
        finally:
            connection.close()


@contextmanager
def serving(
    folder: Path,
    database_url: str,
    *,
    ready: bool = True,
    command: tuple[str, ...] = SERVE,
    tree: Path = ROOT,
    environment: Mapping[str, str] | None = None,
    **settings: str,
) -> Iterator[Service]:
    """Run a service until the end of the block. Raises `HarnessError`."""
    service = Service(
        folder, database_url, command=command, tree=tree, environment=environment, **settings
    )
    try:
        service.start(ready=ready)
        yield service
    finally:
        service.stop()


def inherited(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return this process's environment without the settings that belong to other commands."""
    return {name: value for name, value in environment.items() if name not in NOT_INHERITED}
