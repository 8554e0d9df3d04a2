"""A Redis server for one test, which can be paused, killed and restarted on the same port."""

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
    """A server process; commands are sent to it as inline commands."""

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
        until(lambda: "+PONG" in self.run("PING"), 10)

    def kill(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def pause(self) -> None:
        """Keep accepting connections and bytes, but send nothing."""
        assert self._process
        os.kill(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process
        os.kill(self._process.pid, signal.SIGCONT)

    def call_count(self, command: str) -> int:
        """Return how often clients have called a command."""
        line = re.search(rf"cmdstat_{command}:calls=([0-9]+)", self.run("INFO commandstats"))
        return int(line[1]) if line else 0

    def run(self, command: str) -> str:
        """Return the raw reply to a command, or "" when the server is down."""
        with (
            suppress(OSError),
            socket.create_connection(("127.0.0.1", self.port), timeout=2) as connection,
        ):
            connection.sendall(f"AUTH {PASSWORD}\r\n{command}\r\nQUIT\r\n".encode())
            return connection.makefile("rb").read().decode().removeprefix("+OK\r\n")
        return ""


@contextmanager
def redis() -> Iterator[Redis]:
    with tempfile.TemporaryDirectory() as folder:
        server = Redis(Path(folder))
        server.start()
        try:
            yield server
        finally:
            server.kill()
