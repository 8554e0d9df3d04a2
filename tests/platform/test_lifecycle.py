"""From the start of the service, or its refusal, to its end."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from evidence.harness.processes import ROOT
from service.identity import keys
from tests.platform.fix_postgres import Database
from tests.platform.fix_service import PATIENCE, Service, answers, serving, until


@contextmanager
def busy(folder: Path, database: Database, drain_seconds: str) -> Iterator[tuple[Service, Path]]:
    """A service that is answering a request until the file `go` is there."""
    plant = folder / "contract.json"
    with serving(
        folder,
        database.app_url,
        command=("-m", "tests.platform.app_with_faults"),
        PLANT_FILE=str(plant),
        DRAIN_SECONDS=drain_seconds,
    ) as own:
        yield own, plant.with_suffix(".go")


class InFlight:
    """A request that is being answered."""

    def __init__(self, service: Service, folder: Path) -> None:
        self.status: int | None = None
        self._thread = threading.Thread(target=self._run, args=(f"{service.url}/planted/wait",))
        self._thread.start()
        until((folder / "contract.waiting").exists)

    def _run(self, url: str) -> None:
        try:
            self.status = httpx.get(url, timeout=PATIENCE).status_code
        except httpx.TransportError:
            self.status = 0

    def outcome(self) -> int | None:
        self._thread.join(PATIENCE)
        return self.status


def test_sigterm_drains_finishes_what_is_in_flight_and_exits_0(
    tmp_path: Path, database: Database
) -> None:
    with busy(tmp_path, database, "3") as (own, go), own.http() as client:
        assert client.get("/ready").status_code == 200
        flying = InFlight(own, tmp_path)
        own.process.send_signal(signal.SIGTERM)
        begun = time.monotonic()
        until(lambda: answers(f"{own.url}/ready", 503))
        while time.monotonic() - begun < 1.5:
            ready = client.get("/ready")
            assert ready.status_code == 503
            assert ready.json()["detail"] == "The service is stopping"
            assert ready.headers["connection"] == "close"
            assert client.get("/health").status_code == 200
            assert client.post("/auth/guest").status_code == 201
        until(lambda: not answers(f"{own.url}/health"))
        assert own.process.poll() is None
        assert flying.status is None
        go.touch()
        assert flying.outcome() == 200
        assert own.process.wait(PATIENCE) == 0
        assert "Traceback" not in own.log_text()


def test_sigint_does_not_drain_but_finishes_what_is_in_flight(
    tmp_path: Path, database: Database
) -> None:
    with busy(tmp_path, database, "60") as (own, go):
        flying = InFlight(own, tmp_path)
        own.process.send_signal(signal.SIGINT)
        until(lambda: not answers(f"{own.url}/health"))
        go.touch()
        assert flying.outcome() == 200
        assert own.process.wait(PATIENCE) == 0


def test_a_second_signal_cuts_the_draining_short_and_a_third_what_is_in_flight(
    tmp_path: Path, database: Database
) -> None:
    with busy(tmp_path, database, "60") as (own, go):
        flying = InFlight(own, tmp_path)
        own.process.send_signal(signal.SIGTERM)
        until(lambda: answers(f"{own.url}/ready", 503))
        own.process.send_signal(signal.SIGTERM)
        until(lambda: not answers(f"{own.url}/health"))
        assert own.process.poll() is None
        own.process.send_signal(signal.SIGINT)
        begun = time.monotonic()
        assert own.process.wait(PATIENCE) == 0
        assert time.monotonic() - begun < 8
        assert flying.outcome() in (0, 503)
        assert not go.exists()


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the service whose files may be spoilt."""
    folder = tmp_path_factory.mktemp("copy")
    for name in ("handlers", "service", "db", "openapi"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    keys.create_key(folder / "keys", time.time())
    return folder


SPOILT = {
    "an operationId without a handler": (
        "openapi/openapi.yaml",
        ("get:\n      operationId: projects.get\n", "get:\n      operationId: projects.fetch\n"),
        "openapi/openapi.yaml:",
    ),
    "an operationId twice": (
        "openapi/openapi.yaml",
        (
            "delete:\n      operationId: projects.delete\n",
            "delete:\n      operationId: projects.get\n",
        ),
        "openapi/openapi.yaml:",
    ),
    "an operation that is open by accident": (
        "openapi/openapi.yaml",
        ("security:\n  - bearer: []\n", "security:\n  - bearer: []\n  - {}\n"),
        "openapi/openapi.yaml:",
    ),
    "a handler that is not async": (
        "handlers/system.py",
        ("async def health(", "def health("),
        "handlers.system.health must be `async def`",
    ),
    "a handler that is no Python": (
        "handlers/orgs.py",
        ("async def get(", "def get("),
        "handlers/orgs.py:",
    ),
    "a handler that needs what is not installed": (
        "handlers/orgs.py",
        ("from typing import Any\n", "import no_such_module\nfrom typing import Any\n"),
        "handlers.orgs cannot be imported: No module named 'no_such_module'",
    ),
    "a handler that asks for what is not there": (
        "handlers/orgs.py",
        ("async def get(org_id: str,", "async def get(org_id: str, page: int,"),
        "handlers.orgs.get asks for page, which orgs.get does not have",
    ),
    "a handler that does not take a parameter": (
        "handlers/orgs.py",
        ("async def get(org_id: str,", "async def get("),
        "handlers.orgs.get does not take org_id of orgs.get",
    ),
    "a public handler that asks for a principal": (
        "handlers/system.py",
        ("async def health()", "async def health(token_info: dict[str, str])"),
        "handlers.system.health asks for token_info, but system.health is public",
    ),
}


@pytest.mark.parametrize("fault", SPOILT.values(), ids=SPOILT.keys())
def test_traps_1_5_and_6_what_could_not_serve_stops_the_start_with_its_reason(
    copy: Path, fault: tuple[str, tuple[str, str], str]
) -> None:
    name, (good, bad), expected = fault
    file = copy / name
    whole = file.read_text()
    assert good in whole
    file.write_text(whole.replace(good, bad, 1))
    try:
        code, lines = start(copy)
    finally:
        file.write_text(whole)
    assert code == 1
    assert all(line.startswith(expected) for line in lines), lines
    assert lines


def start(folder: Path) -> tuple[int, list[str]]:
    """Start the service of a folder, which must fail, and return (exit code, its lines)."""
    uncovered = {k: v for k, v in os.environ.items() if not k.startswith("COV")}
    settings = {"DATABASE_URL": "postgresql://a:b@127.0.0.1:1/c", "KEYS_DIR": "keys", "PORT": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "service", "serve"],
        cwd=folder,
        env=uncovered | settings,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, (done.stdout + done.stderr).splitlines()
