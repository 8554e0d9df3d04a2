"""The systems that are measured, each one process on a port of its own."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from evidence.benchmark.data import Data

ROOT = Path(__file__).parents[2]
PATIENCE = 30


@dataclass(frozen=True)
class System:
    """A running system."""

    name: str
    url: str
    pid: int
    seconds_to_ready: float

    def memory_mib(self) -> float:
        """Resident memory now."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) / 1024
        return 0.0


PEERS = {
    "A": ("FastAPI, SQLAlchemy async ORM, asyncpg", "a_fastapi_orm"),
    "E": ("FastAPI, asyncpg, no ORM", "e_fastapi_asyncpg"),
    "F": ("FastAPI, this service's own data path", "f_fastapi_multiplexer"),
    "B": ("Connexion as it comes, SQLAlchemy async ORM, psycopg", "b_connexion"),
    "bare": ("bare ASGI", "bare"),
}


@contextmanager
def service(
    data: Data, folder: Path, name: str = "Covenant", root: Path = ROOT
) -> Iterator[System]:
    """The service with every feature on, as `serve` runs it."""
    settings = {
        "DATABASE_URL": data.url,
        "KEYS_DIR": str(data.keys_dir),
        "GUEST_LIMIT": "off",
        "DRAIN_SECONDS": "0",
        "LOG_FORMAT": "json",
    }
    command = [sys.executable, "-m", "service", "serve"]
    port = _free_port()
    with _running(
        name, command, settings | {"PORT": str(port)}, port, "/ready", folder, root
    ) as it:
        yield it


@contextmanager
def peer(name: str, python: Path, data: Data, folder: Path, contract: Path) -> Iterator[System]:
    """A peer in its own environment, on the same server with the same loop and parser."""
    port = _free_port()
    module = f"evidence.benchmark.peers.{PEERS[name][1]}:app"
    command = [str(python), "-m", "uvicorn", module, "--port", str(port), "--loop", "uvloop"]
    command += ["--http", "httptools", "--no-access-log", "--log-level", "warning"]
    settings = {
        "BENCH_KEY": data.key.hex(),
        "BENCH_DATABASE": data.url,
        "BENCH_CONTRACT": str(contract),
        "PYTHONPATH": str(ROOT),
    }
    with _running(name, command, settings, port, "/health", folder, ROOT) as it:
        yield it


@contextmanager
def _running(
    name: str,
    command: list[str],
    settings: dict[str, str],
    port: int,
    path: str,
    folder: Path,
    root: Path,
) -> Iterator[System]:
    url = f"http://127.0.0.1:{port}"
    with (folder / f"{name}.log").open("wb") as log:
        started = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=root, env=os.environ | settings, stdout=log, stderr=log
        )
        try:
            while not _answers(url + path):
                if process.poll() is not None or time.perf_counter() - started > PATIENCE:
                    raise SystemExit(f"{name} did not start:\n{Path(log.name).read_text()[-2000:]}")
                time.sleep(0.01)
            yield System(name, url, process.pid, time.perf_counter() - started)
        finally:
            process.terminate()
            process.wait(PATIENCE)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
