"""`make run` and `make dev` on a machine that has nothing: a copy of the tree, no settings."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg
import pytest

from evidence.harness.processes import ROOT, free_port
from tests.platform.fix_postgres import Database, Postgres
from tests.platform.fix_service import answers

OURS = ("DATABASE_URL", "MIGRATION_DATABASE_URL", "KEYS_DIR", "HOST", "PORT", "ADMIN_PORT")


@dataclass
class Run:
    """One command in a process group of its own, as a shell starts it."""

    process: "subprocess.Popen[bytes]"
    url: str
    output: Path

    def said(self) -> str:
        return self.output.read_text(errors="replace")

    def until(self, condition: Callable[[], Any], patience: float = 60) -> None:
        """Fail with what was said when the condition does not become true in time (seconds)."""
        deadline = time.monotonic() + patience
        while not condition():
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.02)

    def interrupt(self) -> int:
        """Press Ctrl-C and return the exit code."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.process.wait(20)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a clone has of the code, and nothing that a run has made."""
    copy = tmp_path_factory.mktemp("clone")
    for package in ("openapi", "handlers", "service", "db", "dev"):
        shutil.copytree(
            ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    return copy


@contextmanager
def running(tree: Path, command: str = "local", **settings: str) -> Iterator[Run]:
    port = settings.get("PORT") or free_port()
    output = tree / "output.log"
    environment = {k: v for k, v in os.environ.items() if k not in OURS}
    with output.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "service", command],
            cwd=tree,
            env={**environment, "PORT": str(port), "LOG_FORMAT": "json", **settings},
            stdout=file,
            stderr=file,
            start_new_session=True,
            # Whoever runs the tests in the background may ignore it.
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )
    run = Run(process, f"http://127.0.0.1:{port}", output)
    try:
        yield run
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(20)


def ready(run: Run) -> None:
    run.until(lambda: answers(f"{run.url}/ready"))


def servers(run: Run) -> list[psutil.Process]:
    """The processes of PostgreSQL below this run."""
    children = psutil.Process(run.process.pid).children(recursive=True)
    return [child for child in children if "postgres" in child.name()]


def seconds_of_work(run: Run) -> float:
    """The processor time of this run, PostgreSQL included."""
    process = psutil.Process(run.process.pid)
    own, *others = (p.cpu_times() for p in (process, *process.children(recursive=True)))
    seconds: float = own.children_user + own.children_system
    return seconds + sum(times.user + times.system for times in (own, *others))


def test_a_first_and_a_second_run_of_a_clone(tree: Path) -> None:
    with running(tree) as run:
        ready(run)
        assert f"{run.url}/ui" in run.said()
        assert "Metrics" not in run.said()
        assert f"curl -X POST {run.url}/auth/guest" in run.said()
        assert httpx.get(f"{run.url}/ui").status_code == 200
        (key,) = (tree / ".local" / "keys").iterdir()
        assert key.stat().st_mode & 0o777 == 0o600
        assert key.parent.stat().st_mode & 0o777 == 0o700
        token = httpx.post(f"{run.url}/auth/guest").json()["access_token"]
        bearer = {"Authorization": f"Bearer {token}"}
        org = httpx.post(f"{run.url}/orgs", json={"name": "Acme"}, headers=bearer).json()
        postgres = servers(run)
        assert postgres
        # The service never holds what the owner's connection takes.
        assert b"covenant_owner" not in Path(f"/proc/{run.process.pid}/environ").read_bytes()
        assert run.interrupt() == 0
        assert not any(process.is_running() for process in postgres)
        assert "Traceback" not in run.said()

    admin_port = free_port()
    with running(tree, ADMIN_PORT=str(admin_port)) as run:
        ready(run)
        metrics = f"http://127.0.0.1:{admin_port}/metrics"
        assert metrics in run.said()
        assert httpx.get(metrics).status_code == 200
        busy = seconds_of_work(run)
        kept = httpx.get(f"{run.url}/orgs/{org['id']}", headers=bearer)
        assert kept.json() == org
        assert [key] == list((tree / ".local" / "keys").iterdir())
        assert run.interrupt() == 0
    # Of all processors; beside other tests it is more than alone.
    assert busy < 6


def test_ctrl_c_before_the_service_runs_leaves_nothing(tree: Path) -> None:
    with running(tree) as run:
        run.until(lambda: servers(run))
        postgres = servers(run)
        code = run.interrupt()
        assert code in (0, 130)
        assert not any(process.is_running() for process in postgres)
        assert "Traceback" not in run.said()


@pytest.mark.parametrize("name", ["PORT", "ADMIN_PORT"])
def test_a_taken_port_is_one_line_and_starts_nothing(tree: Path, name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with running(tree, **{name: str(port)}) as run:
            assert run.process.wait(20) == 1
            taken_line = f"{name}: cannot listen on 127.0.0.1:{port}: Address already in use\n"
            assert run.said() == taken_line


@pytest.mark.parametrize(
    ("settings", "lines"),
    [
        (
            {
                "DATABASE_URL": "nonsense",
                "PORT": "http",
                "GUEST_LIMIT": "many",
                "DATABSE_URL": "postgresql://x",
            },
            [
                r"DATABASE_URL: is not a URL such as postgresql://.*",
                r"DATABSE_URL: unknown; did you mean DATABASE_URL\?",
                r"GUEST_LIMIT: is neither .*",
                r"PORT: .*",
            ],
        ),
        (
            {
                "DATABASE_URL": "postgresql://covenant_app:secret@127.0.0.1:1/covenant",
                "MIGRATION_DATABASE_URL": "postgresql://covenant_owner:secret@127.0.0.1:1/covenant",
            },
            [r"migrate: .*127\.0\.0\.1.* port 1 failed: Connection refused"],
        ),
        (
            {"MIGRATION_DATABASE_URL": "postgresql://covenant_owner@127.0.0.1:1/covenant"},
            [r"DATABASE_URL: missing, although MIGRATION_DATABASE_URL is given"],
        ),
    ],
)
def test_a_wrong_setting_is_one_line(
    tree: Path, settings: dict[str, str], lines: list[str]
) -> None:
    with running(tree, **settings) as run:
        assert run.process.wait(20) == 1
        said = run.said().splitlines()
        assert len(said) == len(lines), said
        assert all(map(re.fullmatch, lines, said)), said


def test_a_server_that_is_too_old_is_one_line(tree: Path, database: Database) -> None:
    schema = tree / "db" / "server_versions.py"
    text = schema.read_text()
    schema.write_text(text.replace("MINIMUM = 150_000", "MINIMUM = 9_990_000"))
    urls = {"DATABASE_URL": database.app_url, "MIGRATION_DATABASE_URL": database.owner_url}
    try:
        with running(tree, **urls) as run:
            assert run.process.wait(20) == 1
            assert re.fullmatch(r"migrate: PostgreSQL \d+ is too old: .*\n", run.said())
    finally:
        schema.write_text(text)


def test_a_refused_contract_starts_nothing(tree: Path) -> None:
    with _broken(tree / "openapi" / "openapi.yaml"), running(tree) as run:
        assert run.process.wait(20) == 1
        assert "openapi.yaml:" in run.said()
        assert "Traceback" not in run.said()
        assert "Swagger UI" not in run.said()


def test_dev_follows_the_contract_and_keeps_the_last_good_service(
    tree: Path, postgres: Postgres, database: Database
) -> None:
    contract = tree / "openapi" / "openapi.yaml"
    good = contract.read_text()

    def served() -> str:
        try:
            return str(httpx.get(f"{run.url}/openapi.json", timeout=5).json()["info"]["title"])
        except httpx.TransportError:
            return ""

    urls = {"DATABASE_URL": database.app_url, "MIGRATION_DATABASE_URL": database.owner_url}
    with running(tree, "dev", **urls) as run:
        ready(run)
        assert servers(run) == []  # one is given
        assert served() == "Covenant"
        try:
            with _closed(postgres, database):
                contract.write_text(good.replace("title: Covenant", "title: Changed", 1))
                run.until(lambda: "not migrated, the last good service goes on" in run.said())
            run.until(lambda: served() == "Changed")
            with _broken(contract):
                run.until(lambda: "refused, the last good service goes on" in run.said())
                assert served() == "Changed"
                assert "openapi.yaml:" in run.said()
                children = psutil.Process(run.process.pid).children(recursive=True)
                for child in children:
                    child.kill()
                contract.write_text(contract.read_text() + "\n")
                run.until(lambda: "nothing serves until it is right" in run.said())
                assert run.interrupt() == 0
        finally:
            contract.write_text(good)
        assert not any(child.is_running() for child in children)
        assert "Traceback" not in run.said()


def test_dev_follows_a_resource_from_the_contract_to_its_table(tree: Path) -> None:
    contract = tree / "openapi" / "openapi.yaml"
    good, revisions = contract.read_text(), tree / "db" / "migrations" / "versions"

    def typed(module: str, **words: str) -> None:
        command = [sys.executable, "-m", module]
        subprocess.run(command, cwd=tree, env={**os.environ, **words}, check=True)

    with running(tree, "dev") as run:
        ready(run)
        token = httpx.post(f"{run.url}/auth/guest").json()["access_token"]
        bearer = {"Authorization": f"Bearer {token}"}
        org = httpx.post(f"{run.url}/orgs", json={"name": "Acme"}, headers=bearer).json()["id"]
        tasks = f"{run.url}/orgs/{org}/tasks"

        def task() -> int:
            try:
                sent = {"json": {"title": "Write"}, "headers": bearer, "timeout": 5}
                return httpx.post(tasks, **sent).status_code
            except httpx.TransportError:
                return 0

        before = set(revisions.glob("*.py"))
        try:
            assert task() == 404
            typed("openapi.scaffold", NAME="tasks", FIELDS="title:string(1..200)")
            lacking = "the database lacks the contract's table tasks: see make migration"
            run.until(lambda: lacking in run.said())
            run.until(lambda: task() == 503)  # said a moment before it listens
            typed("dev.planner.planning")
            run.until(lambda: task() == 201)
        finally:
            contract.write_text(good)
            for revision in set(revisions.glob("*.py")) - before:
                revision.unlink()
        assert "Traceback" not in run.said()


@contextmanager
def _closed(postgres: Postgres, database: Database) -> Iterator[None]:
    """A database that takes no new connection; those that there are go on."""
    alter = f"alter database {database.name} allow_connections"
    with psycopg.connect(postgres.superuser_url, autocommit=True) as superuser:
        superuser.execute(f"{alter} false")
        try:
            yield
        finally:
            superuser.execute(f"{alter} true")


@contextmanager
def _broken(contract: Path) -> Iterator[None]:
    text = contract.read_text()
    contract.write_text(text.replace("operationId: system.health", "operationId: nonsense", 1))
    try:
        yield
    finally:
        contract.write_text(text)
