"""The service as a child process that keeps its port, keys and log across restarts."""

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
# Releases before the package `service` existed.
OLD_SERVE = ("-m", "handlers.runtime", "serve")
# Settings of other commands, or of other services, in the environment of this process.
NOT_INHERITED = frozenset({"MIGRATION_DATABASE_URL", "REDIS_URL"})


class Service:
    """One service process, which can be started again after it ended."""

    def __init__(
        self,
        folder: Path,
        database_url: str,
        *,
        command: tuple[str, ...] | None = None,
        tree: Path = ROOT,
        environment: Mapping[str, str] | None = None,
        **settings: str,
    ) -> None:
        """Keep the log and the keys in `folder`, and run the code in `tree`.

        `command` are the arguments of Python, by default those that serve `tree`. `settings` and
        `environment` replace the defaults below.
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
        self._command = [interpreter(tree), *(command or serve_command(tree))]
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
        """Start and, with `ready`, wait until /ready returns 200. Raises `HarnessError`."""
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
        """Send a signal to the process, if it still runs."""
        with suppress(ProcessLookupError):
            self.process.send_signal(number)

    def wait(self, timeout: float = 30.0) -> int:
        """Return the exit code. Raises `subprocess.TimeoutExpired`."""
        return self.process.wait(timeout)

    def terminate(self, number: int = signal.SIGTERM, timeout: float = 20.0) -> int:
        """Send a signal and return the exit code. Raises `subprocess.TimeoutExpired`."""
        self.send_signal(number)
        return self.wait(timeout)

    def stop(self) -> None:
        """End the process, with SIGKILL if necessary; do nothing before the first start."""
        if self._process:
            processes.stop(self._process)

    def ready(self) -> int:
        """Return the status of /ready, 0 without a response."""
        return self._status("/ready")

    def health(self) -> int:
        """Return the status of /health, 0 without a response."""
        return self._status("/health")

    def log_text(self) -> str:
        """Return the log without its last line while that one is incomplete."""
        text = self.log.read_text(errors="replace")
        return text[: text.rfind("\n") + 1]

    def log_lines(self) -> list[str]:
        """Return the complete lines of the log."""
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
    command: tuple[str, ...] | None = None,
    tree: Path = ROOT,
    environment: Mapping[str, str] | None = None,
    **settings: str,
) -> Iterator[Service]:
    """Run a service until the end of the block. The parameters are those of `Service`."""
    service = Service(
        folder, database_url, command=command, tree=tree, environment=environment, **settings
    )
    try:
        service.start(ready=ready)
        yield service
    finally:
        service.stop()


def interpreter(tree: Path) -> str:
    """Return the Python of another checkout if it has a virtual environment, else this one."""
    python = tree / ".venv" / "bin" / "python"
    return str(python) if tree != ROOT and python.exists() else sys.executable


def serve_command(tree: Path) -> tuple[str, ...]:
    """Return the arguments of Python that serve the code in `tree`, which may be older."""
    return SERVE if (tree / "service").is_dir() else OLD_SERVE


def inherited(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return this process's environment without the settings that belong to other commands."""
    return {name: value for name, value in environment.items() if name not in NOT_INHERITED}
