"""A real Redis for one test, that can be paused, killed and started again on its port."""

import os
import re
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from evidence.harness.processes import free_port
from tests.platform.fix_service import until
from tests.platform.fix_tools import tool

PASSWORD = "only-for-redis"


class Redis:
    """Speaks to the server as a client would, in Redis' inline commands."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._program = tool("redis-server")
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://:{PASSWORD}@127.0.0.1:{self.port}/0"

    def start(self) -> None:
        options = f"--bind 127.0.0.1 --port {self.port} --requirepass {PASSWORD} --appendonly no"
        command = [self._program, *options.split(), "--save", "", "--dir", str(self._folder)]
        with (self._folder / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        until(lambda: "+PONG" in self.ask("PING"), 10)

    def kill(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def pause(self) -> None:
        """Take connections and bytes, and answer nothing."""
        assert self._process
        os.kill(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process
        os.kill(self._process.pid, signal.SIGCONT)

    def calls(self, command: str) -> int:
        """How often clients have called a command."""
        line = re.search(rf"cmdstat_{command}:calls=([0-9]+)", self.ask("INFO commandstats"))
        return int(line[1]) if line else 0

    def ask(self, command: str) -> str:
        """Return the answer as it was sent, nothing where there is no server."""
        with (
            suppress(OSError),
            socket.create_connection(("127.0.0.1", self.port), timeout=2) as end,
        ):
            end.sendall(f"AUTH {PASSWORD}\r\n{command}\r\nQUIT\r\n".encode())
            return end.makefile("rb").read().decode().removeprefix("+OK\r\n")
        return ""


@contextmanager
def redis() -> Iterator[Redis]:
    with tempfile.TemporaryDirectory() as name:
        made = Redis(Path(name))
        made.start()
        try:
            yield made
        finally:
            made.kill()
