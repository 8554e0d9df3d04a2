"""The service's lifecycle: errors that stop the start, draining, and signals."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from evidence.harness.processes import ROOT
from service.identity import keys
from tests.platform.fix_postgres import Database
from tests.platform.fix_service import TIMEOUT_SECONDS, Service, get_status, serving, until


class PendingRequest:
    """A request that waits in its handler until `finish` is called."""

    def __init__(self, service: Service, contract: Path) -> None:
        self.status: int | None = None
        self._contract = contract
        self._thread = threading.Thread(target=self._run, args=(f"{service.url}/faults/wait",))
        self._thread.start()
        until(contract.with_suffix(".waiting").exists)

    def _run(self, url: str) -> None:
        self.status = get_status(url)

    def finish(self) -> None:
        self._contract.with_suffix(".go").touch()

    def outcome(self) -> int | None:
        """Return the status, or 0 when the connection ended without a response."""
        self._thread.join(TIMEOUT_SECONDS)
        return self.status


@contextmanager
def serving_request(
    folder: Path, database: Database, drain_seconds: str
) -> Iterator[tuple[Service, PendingRequest]]:
    """Yield a service and a request that it is processing."""
    contract = folder / "contract.json"
    with serving(
        folder,
        database.app_url,
        command=("-m", "tests.platform.app_with_faults"),
        FAULTS_CONTRACT=str(contract),
        DRAIN_SECONDS=drain_seconds,
    ) as service:
        yield service, PendingRequest(service, contract)


def status(service: Service, path: str) -> int:
    return get_status(f"{service.url}{path}")


def test_sigterm_drains_finishes_pending_requests_and_exits_0(
    tmp_path: Path, database: Database
) -> None:
    with (
        serving_request(tmp_path, database, drain_seconds="3") as (service, pending),
        service.http() as client,
    ):
        assert client.get("/ready").status_code == 200
        service.process.send_signal(signal.SIGTERM)
        started = time.monotonic()
        until(lambda: status(service, "/ready") == 503)
        while time.monotonic() - started < 1.5:
            ready = client.get("/ready")
            assert ready.status_code == 503
            assert ready.json()["detail"] == "The service is stopping"
            assert ready.headers["connection"] == "close"
            assert client.get("/health").status_code == 200
            assert client.post("/auth/guest").status_code == 201
        until(lambda: status(service, "/health") == 0)
        assert service.is_running
        assert pending.status is None
        pending.finish()
        assert pending.outcome() == 200
        assert service.wait(TIMEOUT_SECONDS) == 0
        assert "Traceback" not in service.log_text()


def test_sigint_finishes_pending_requests_without_draining(
    tmp_path: Path, database: Database
) -> None:
    with serving_request(tmp_path, database, drain_seconds="60") as (service, pending):
        service.process.send_signal(signal.SIGINT)
        until(lambda: status(service, "/health") == 0)
        pending.finish()
        assert pending.outcome() == 200
        assert service.wait(TIMEOUT_SECONDS) == 0


def test_a_second_signal_ends_the_drain_and_a_third_the_pending_requests(
    tmp_path: Path, database: Database
) -> None:
    with serving_request(tmp_path, database, drain_seconds="60") as (service, pending):
        service.process.send_signal(signal.SIGTERM)
        until(lambda: status(service, "/ready") == 503)
        service.process.send_signal(signal.SIGTERM)
        until(lambda: status(service, "/health") == 0)
        assert service.is_running
        service.process.send_signal(signal.SIGINT)
        started = time.monotonic()
        assert service.wait(TIMEOUT_SECONDS) == 0
        assert time.monotonic() - started < 8
        assert pending.outcome() in (0, 503)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the service whose files a test may change."""
    folder = tmp_path_factory.mktemp("copy")
    for name in ("handlers", "service", "db", "openapi"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    keys.create_key(folder / "keys", time.time())
    return folder


@dataclass(frozen=True)
class Defect:
    """A change to a file, and how each line that the service then prints begins."""

    file: str
    before: str
    after: str
    message: str


DEFECTS = {
    "an operationId without a handler": Defect(
        "openapi/openapi.yaml",
        "get:\n      operationId: projects.get\n",
        "get:\n      operationId: projects.fetch\n",
        "openapi/openapi.yaml:",
    ),
    "a duplicate operationId": Defect(
        "openapi/openapi.yaml",
        "delete:\n      operationId: projects.delete\n",
        "delete:\n      operationId: projects.get\n",
        "openapi/openapi.yaml:",
    ),
    "an operation that is public by accident": Defect(
        "openapi/openapi.yaml",
        "security:\n  - bearer: []\n",
        "security:\n  - bearer: []\n  - {}\n",
        "openapi/openapi.yaml:",
    ),
    "a handler that is not async": Defect(
        "handlers/system.py",
        "async def health(",
        "def health(",
        "handlers.system.health must be `async def`",
    ),
    "a handler with a syntax error": Defect(
        "handlers/orgs.py",
        "async def get(",
        "def get(",
        "handlers/orgs.py:",
    ),
    "a handler with a missing dependency": Defect(
        "handlers/orgs.py",
        "from typing import Any\n",
        "import no_such_module\nfrom typing import Any\n",
        "handlers.orgs cannot be imported: No module named 'no_such_module'",
    ),
    "a handler with an unknown argument": Defect(
        "handlers/orgs.py",
        "async def get(org_id: str,",
        "async def get(org_id: str, page: int,",
        "handlers.orgs.get takes page, which orgs.get does not provide",
    ),
    "a handler that does not take a parameter": Defect(
        "handlers/orgs.py",
        "async def get(org_id: str,",
        "async def get(",
        "handlers.orgs.get does not take org_id of orgs.get",
    ),
    "a handler of a public operation that takes the principal": Defect(
        "handlers/system.py",
        "async def health()",
        "async def health(principal: object)",
        "handlers.system.health takes principal, but system.health is public",
    ),
}


@pytest.mark.parametrize("defect", DEFECTS.values(), ids=DEFECTS.keys())
def test_a_defect_of_contract_or_handlers_stops_the_start_with_its_reason(
    copy: Path, defect: Defect
) -> None:
    file = copy / defect.file
    original = file.read_text()
    assert defect.before in original
    file.write_text(original.replace(defect.before, defect.after, 1))
    try:
        code, lines = run_until_exit(copy)
    finally:
        file.write_text(original)
    assert code == 1
    assert lines
    assert all(line.startswith(defect.message) for line in lines), lines


def run_until_exit(folder: Path) -> tuple[int, list[str]]:
    """Run the service of a folder, which must fail, and return its exit code and its output."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("COV")}
    settings = {"DATABASE_URL": "postgresql://a:b@127.0.0.1:1/c", "KEYS_DIR": "keys", "PORT": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "service", "serve"],
        cwd=folder,
        env=environment | settings,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, (done.stdout + done.stderr).splitlines()
