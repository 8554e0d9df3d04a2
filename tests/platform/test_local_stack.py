"""`make run` and `make dev` in a fresh clone without any settings."""

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

from db import server_versions
from evidence.harness.processes import ROOT, free_port
from tests.platform.fix_postgres import Database, Postgres
from tests.platform.fix_service import has_status

REMOVED_SETTINGS = (
    "DATABASE_URL",
    "MIGRATION_DATABASE_URL",
    "KEYS_DIR",
    "HOST",
    "PORT",
    "ADMIN_PORT",
)
MAX_CPU_SECONDS = 6


@dataclass
class Run:
    """A command in its own process group, as an interactive shell starts it."""

    process: "subprocess.Popen[bytes]"
    url: str
    output: Path

    def text(self) -> str:
        """Return stdout and stderr so far."""
        return self.output.read_text(errors="replace")

    def wait_until(self, condition: Callable[[], Any], timeout: float = 60) -> None:
        """Wait for the condition; fail with the output after `timeout` seconds, or on an exit."""
        deadline = time.monotonic() + timeout
        while not condition():
            assert self.process.poll() is None, self.text()
            assert time.monotonic() < deadline, self.text()
            time.sleep(0.02)

    def wait_until_ready(self) -> None:
        self.wait_until(lambda: has_status(f"{self.url}/ready"))

    def interrupt(self) -> int:
        """Press Ctrl-C and return the exit code."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.process.wait(20)

    def postgres_processes(self) -> list[psutil.Process]:
        children = psutil.Process(self.process.pid).children(recursive=True)
        return [child for child in children if "postgres" in child.name()]

    def cpu_seconds(self) -> float:
        """Return the CPU time of the run, including PostgreSQL."""
        process = psutil.Process(self.process.pid)
        own, *others = (p.cpu_times() for p in (process, *process.children(recursive=True)))
        seconds: float = own.children_user + own.children_system
        return seconds + sum(times.user + times.system for times in (own, *others))


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The code of a fresh clone."""
    copy = tmp_path_factory.mktemp("clone")
    for package in ("openapi", "handlers", "service", "db", "dev"):
        shutil.copytree(
            ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    return copy


@contextmanager
def running(tree: Path, command: str = "run", **settings: str) -> Iterator[Run]:
    port = settings.get("PORT") or free_port()
    output = tree / "output.log"
    environment = {k: v for k, v in os.environ.items() if k not in REMOVED_SETTINGS}
    with output.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "dev.local", command],
            cwd=tree,
            env={**environment, "PORT": str(port), "LOG_FORMAT": "json", **settings},
            stdout=file,
            stderr=file,
            start_new_session=True,
            # SIGINT is ignored if the tests run in the background of a shell.
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )
    run = Run(process, f"http://127.0.0.1:{port}", output)
    try:
        yield run
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(20)


def test_a_fresh_clone_serves_and_a_second_run_keeps_keys_and_data(tree: Path) -> None:
    with running(tree) as run:
        run.wait_until_ready()
        assert f"Swagger UI   {run.url}/ui" in run.text()
        assert "Metrics" not in run.text()
        assert f"curl -X POST {run.url}/auth/guest" in run.text()
        assert httpx.get(f"{run.url}/ui").status_code == 200
        (key,) = (tree / ".local" / "keys").iterdir()
        assert key.stat().st_mode & 0o777 == 0o600
        assert key.parent.stat().st_mode & 0o777 == 0o700
        token = httpx.post(f"{run.url}/auth/guest").json()["access_token"]
        bearer = {"Authorization": f"Bearer {token}"}
        org = httpx.post(f"{run.url}/orgs", json={"name": "Acme"}, headers=bearer).json()
        postgres = run.postgres_processes()
        assert postgres
        # The serving process must not have the owner's credentials.
        assert b"covenant_owner" not in Path(f"/proc/{run.process.pid}/environ").read_bytes()
        assert run.interrupt() == 0
        assert not any(process.is_running() for process in postgres)
        assert "Traceback" not in run.text()

    admin_port = free_port()
    with running(tree, ADMIN_PORT=str(admin_port), SWAGGER_UI="false") as run:
        run.wait_until_ready()
        metrics = f"http://127.0.0.1:{admin_port}/metrics"
        assert metrics in run.text()
        assert "Swagger UI" not in run.text()
        assert httpx.get(metrics).status_code == 200
        cpu_seconds = run.cpu_seconds()
        response = httpx.get(f"{run.url}/orgs/{org['id']}", headers=bearer)
        assert response.json() == org
        assert [key] == list((tree / ".local" / "keys").iterdir())
        assert run.interrupt() == 0
    assert cpu_seconds < MAX_CPU_SECONDS  # on all cores; higher while other tests run


def test_only_a_configured_server_gets_the_security_floor_warning(
    tree: Path, database: Database
) -> None:
    with psycopg.connect(database.app_url) as connection:
        is_below = server_versions.floor_warning(connection.info.server_version) is not None
    with running(tree) as run:
        run.wait_until_ready()
        assert "security floor" not in run.text()
        assert run.interrupt() == 0
    with running(tree, DATABASE_URL=database.app_url) as run:
        run.wait_until_ready()
        assert ("security floor" in run.text()) is is_below
        assert run.interrupt() == 0


def test_ctrl_c_during_the_start_leaves_no_process(tree: Path) -> None:
    with running(tree) as run:
        run.wait_until(run.postgres_processes)
        postgres = run.postgres_processes()
        code = run.interrupt()
        assert code in (0, 130)
        assert not any(process.is_running() for process in postgres)
        assert "Traceback" not in run.text()


@pytest.mark.parametrize("command", ["run", "watch"])
def test_the_run_ends_with_one_line_when_postgresql_ends(tree: Path, command: str) -> None:
    with running(tree, command, DRAIN_SECONDS="0") as run:
        run.wait_until_ready()
        directory = tree / ".local" / "postgresql"
        pid = int((directory / "data" / "postmaster.pid").read_text().split("\n")[0])
        os.kill(pid, signal.SIGKILL)
        assert run.process.wait(20) == 1
        line = f"PostgreSQL has stopped unexpectedly: see {directory / 'server.log'}\n"
        assert run.text().count(line) == 1
        assert "Traceback" not in run.text()


@pytest.mark.parametrize("name", ["PORT", "ADMIN_PORT"])
def test_a_taken_port_is_reported_in_one_line_before_anything_starts(tree: Path, name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with running(tree, **{name: str(port)}) as run:
            assert run.process.wait(20) == 1
            line = f"{name}: cannot listen on 127.0.0.1:{port}: Address already in use\n"
            assert run.text() == line


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
                r"DATABASE_URL: must be a URL such as postgresql://.*",
                r"DATABSE_URL: unknown setting; did you mean DATABASE_URL\?",
                r"GUEST_LIMIT: must be `off` or .*",
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
            [r"DATABASE_URL: is missing, although MIGRATION_DATABASE_URL is set"],
        ),
    ],
)
def test_each_invalid_setting_is_reported_in_one_line(
    tree: Path, settings: dict[str, str], lines: list[str]
) -> None:
    with running(tree, **settings) as run:
        assert run.process.wait(20) == 1
        reported = run.text().splitlines()
        assert len(reported) == len(lines), reported
        assert all(map(re.fullmatch, lines, reported)), reported


def test_a_server_that_is_too_old_is_reported_in_one_line(tree: Path, database: Database) -> None:
    module = tree / "db" / "server_versions.py"
    text = module.read_text()
    module.write_text(text.replace("MINIMUM = 150_000", "MINIMUM = 9_990_000"))
    urls = {"DATABASE_URL": database.app_url, "MIGRATION_DATABASE_URL": database.owner_url}
    try:
        with running(tree, **urls) as run:
            assert run.process.wait(20) == 1
            assert re.fullmatch(r"migrate: PostgreSQL \d+ is too old: .*\n", run.text())
    finally:
        module.write_text(text)


def test_an_invalid_contract_starts_nothing(tree: Path) -> None:
    with _invalid(tree / "openapi" / "openapi.yaml"), running(tree) as run:
        assert run.process.wait(20) == 1
        assert "openapi.yaml:" in run.text()
        assert "Traceback" not in run.text()
        assert "Swagger UI" not in run.text()


def test_an_unknown_command_prints_the_usage(tree: Path) -> None:
    with running(tree, "start") as run:
        assert run.process.wait(20) == 2
        assert run.text() == "usage: python -m dev.local run | watch\n"


def test_dev_follows_the_contract_and_keeps_the_last_good_service(
    tree: Path, postgres: Postgres, database: Database
) -> None:
    contract = tree / "openapi" / "openapi.yaml"
    good = contract.read_text()

    def served_title() -> str:
        try:
            return str(httpx.get(f"{run.url}/openapi.json", timeout=5).json()["info"]["title"])
        except httpx.TransportError:
            return ""

    urls = {"DATABASE_URL": database.app_url, "MIGRATION_DATABASE_URL": database.owner_url}
    with running(tree, "watch", **urls) as run:
        run.wait_until_ready()
        assert run.postgres_processes() == []  # a server is configured
        assert served_title() == "Covenant"
        try:
            with _without_new_connections(postgres, database):
                contract.write_text(good.replace("title: Covenant", "title: Changed", 1))
                not_migrated = "dev: not migrated; the last good service keeps running"
                run.wait_until(lambda: not_migrated in run.text())
            run.wait_until(lambda: served_title() == "Changed")
            with _invalid(contract):
                rejected = "dev: rejected; the last good service keeps running"
                run.wait_until(lambda: rejected in run.text())
                assert served_title() == "Changed"
                assert "openapi.yaml:" in run.text()
                children = psutil.Process(run.process.pid).children(recursive=True)
                for child in children:
                    child.kill()
                contract.write_text(contract.read_text() + "\n")
                run.wait_until(lambda: "dev: rejected; no service is running" in run.text())
                assert run.interrupt() == 0
        finally:
            contract.write_text(good)
        assert not any(child.is_running() for child in children)
        assert "Traceback" not in run.text()


def test_dev_follows_a_new_resource_from_the_contract_to_its_table(tree: Path) -> None:
    contract = tree / "openapi" / "openapi.yaml"
    good, revisions = contract.read_text(), tree / "db" / "migrations" / "versions"

    def run_command(module: str, **settings: str) -> None:
        command = [sys.executable, "-m", module]
        subprocess.run(command, cwd=tree, env={**os.environ, **settings}, check=True)

    with running(tree, "watch") as run:
        run.wait_until_ready()
        token = httpx.post(f"{run.url}/auth/guest").json()["access_token"]
        bearer = {"Authorization": f"Bearer {token}"}
        org = httpx.post(f"{run.url}/orgs", json={"name": "Acme"}, headers=bearer).json()["id"]
        tasks = f"{run.url}/orgs/{org}/tasks"

        def create_task() -> int:
            try:
                body = {"title": "Write"}
                return httpx.post(tasks, json=body, headers=bearer, timeout=5).status_code
            except httpx.TransportError:
                return 0

        before = set(revisions.glob("*.py"))
        try:
            assert create_task() == 404
            run_command("dev.scaffold", NAME="tasks", FIELDS="title:string(1..200)")
            missing = (
                "table `tasks` is missing from the database: run make migration, then make migrate"
            )
            run.wait_until(lambda: missing in run.text())
            run.wait_until(lambda: create_task() == 503)  # it logs the line before it listens
            run_command("dev.planner")
            run.wait_until(lambda: create_task() == 201)
        finally:
            contract.write_text(good)
            for revision in set(revisions.glob("*.py")) - before:
                revision.unlink()
        assert "Traceback" not in run.text()


@contextmanager
def _without_new_connections(postgres: Postgres, database: Database) -> Iterator[None]:
    """Reject new connections to the database; existing connections continue."""
    alter = f"alter database {database.name} allow_connections"
    with psycopg.connect(postgres.superuser_url, autocommit=True) as superuser:
        superuser.execute(f"{alter} false")
        try:
            yield
        finally:
            superuser.execute(f"{alter} true")


@contextmanager
def _invalid(contract: Path) -> Iterator[None]:
    """Break an operationId of the contract."""
    text = contract.read_text()
    contract.write_text(text.replace("operationId: system.health", "operationId: nonsense", 1))
    try:
        yield
    finally:
        contract.write_text(text)
