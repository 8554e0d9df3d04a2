"""The systems under comparison; each runs as one process on its own port."""

import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from evidence.benchmark.data import Data
from evidence.harness import processes, services
from evidence.harness.process_stats import resident_bytes
from evidence.harness.processes import ROOT, free_port, wait_until

START_TIMEOUT_SECONDS = 30
COVENANT = "Covenant"
BARE = "bare"
# What each peer is, and its module in evidence/benchmark/peers.
PEERS = {
    "A": ("FastAPI, SQLAlchemy async ORM, asyncpg", "a_fastapi_orm"),
    "E": ("FastAPI, asyncpg, no ORM", "e_fastapi_asyncpg"),
    "F": ("FastAPI on this service's own data path", "f_fastapi_multiplexer"),
    "B": ("Connexion unmodified, SQLAlchemy async ORM, psycopg", "b_connexion"),
    BARE: ("bare ASGI application, GET /health alone", "bare"),
}


@dataclass(frozen=True)
class System:
    """A running system."""

    name: str
    url: str
    pid: int
    seconds_to_ready: float

    def memory_mib(self) -> float:
        """Return the resident memory."""
        return resident_bytes(self.pid) / 2**20


@contextmanager
def service(data: Data, folder: Path, name: str = COVENANT, tree: Path = ROOT) -> Iterator[System]:
    """Run the service of a checkout with its default settings, all features on."""
    process = services.Service(
        folder, data.url, tree=tree, KEYS_DIR=str(data.keys_dir), DRAIN_SECONDS="0"
    )
    started = time.perf_counter()
    try:
        process.start()
        yield System(name, process.url, process.pid, time.perf_counter() - started)
    finally:
        process.stop()


@contextmanager
def peer(name: str, python: Path, data: Data, folder: Path, contract: Path) -> Iterator[System]:
    """Run a peer in its own virtual environment, with the service's event loop and parser."""
    port, log = free_port(), folder / f"{name}.log"
    module = f"evidence.benchmark.peers.{PEERS[name][1]}:app"
    command = [str(python), "-m", "uvicorn", module, "--port", str(port), "--loop", "uvloop"]
    command += ["--http", "httptools", "--no-access-log", "--log-level", "warning"]
    settings = {
        "BENCH_KEY": data.key.hex(),
        "BENCH_DATABASE": data.url,
        "BENCH_CONTRACT": str(contract),
        "PYTHONPATH": str(ROOT),
    }
    url, started = f"http://127.0.0.1:{port}", time.perf_counter()
    with processes.running(command, log, environment=os.environ | settings) as process:
        wait_until(lambda: _is_healthy(url) or process.poll() is not None, START_TIMEOUT_SECONDS)
        if not _is_healthy(url):
            raise SystemExit(f"{name} does not start:\n{log.read_text()[-2000:]}")
        yield System(name, url, process.pid, time.perf_counter() - started)


def _is_healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False
