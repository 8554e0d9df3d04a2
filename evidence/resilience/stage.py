"""What scenarios are played on: PostgreSQL that can be ended, services, tenants."""

import json
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg

from db import migrate, roles
from dev.local import embedded
from evidence.harness import stage
from evidence.harness.stage import ROOT, StageError, free_port
from evidence.resilience.load import Reply, Request, once
from evidence.resilience.scenario import NotRun, until
from service.identity import keys

DATABASE = "covenant"


class Postgres:
    """A server of our own with the roles and a migrated database; the port stays the same."""

    def __init__(
        self,
        folder: Path,
        *,
        fsync: bool = False,
        options: tuple[str, ...] = (),
        twin: "Postgres | None" = None,
    ) -> None:
        """`twin` is a server whose roles it has, as a standby of it does."""
        self.folder, self.port = folder, free_port()
        self._fsync, self._options = fsync, options
        fresh = secrets.token_hex(16), secrets.token_hex(16)
        self._passwords: tuple[str, str] = twin._passwords if twin else fresh
        self._running: AbstractContextManager[embedded.Server] | None = None
        self._server: embedded.Server | None = None

    def prepare(self, *, migrated: bool = True) -> None:
        """Start, make the roles and the database, and migrate."""
        self.start()
        self.make_roles()
        roles.make_database(self.superuser("postgres"), DATABASE)
        if migrated:
            migrate.upgrade(self.owner_url)

    def make_roles(self) -> None:
        roles.make_roles(self.superuser("postgres"), *self._passwords)

    def start(self) -> None:
        running = embedded.running(
            self.folder, fsync=self._fsync, port=self.port, options=self._options
        )
        self._server, self._running = running.__enter__(), running

    def stop(self) -> None:
        """Stop it as for a restart: clients are cut off at once."""
        running, self._running = self._running, None
        if running:
            running.__exit__(None, None, None)

    def kill(self) -> None:
        """SIGKILL: what is not on the disk is lost; the next start recovers."""
        os.kill(self.pid, signal.SIGKILL)
        self.stop()

    @property
    def pid(self) -> int:
        return int((self.folder / "data" / "postmaster.pid").read_text().split("\n")[0])

    def superuser(self, database: str = DATABASE) -> str:
        if self._server is None:
            raise StageError("PostgreSQL was not started")
        return self._server.url(database=database)

    @property
    def owner_url(self) -> str:
        return self.url(roles.OWNER, self._passwords[0])

    @property
    def app_url(self) -> str:
        return self.url(roles.APP, self._passwords[1])

    def url(self, user: str, password: str) -> str:
        return f"postgresql://{user}:{password}@127.0.0.1:{self.port}/{DATABASE}"

    def execute(self, sql: str) -> None:
        stage.execute(self.superuser(), sql)

    def rows(self, sql: str) -> list[tuple[object, ...]]:
        with psycopg.connect(self.superuser()) as connection:
            return connection.execute(sql.encode()).fetchall()


@contextmanager
def postgres(
    folder: Path, *, fsync: bool = False, options: tuple[str, ...] = (), migrated: bool = True
) -> Iterator[Postgres]:
    """Yield a server that is ready, and stop it at the end."""
    server = Postgres(folder / "postgresql", fsync=fsync, options=options)
    try:
        server.prepare(migrated=migrated)
        yield server
    finally:
        server.stop()


class Service:
    """A service on a port of its own, which it keeps when it is started again."""

    def __init__(self, folder: Path, database_url: str, tree: Path = ROOT, **settings: str) -> None:
        self.port, self.tree = free_port(), tree
        self.log = folder / f"service-{self.port}.log"
        self.keys_dir = Path(settings.get("KEYS_DIR", folder / "keys"))
        if not self.keys_dir.exists():
            keys.create(self.keys_dir, time.time() - 86_400)
        self.settings = {
            "DATABASE_URL": database_url,
            "KEYS_DIR": str(self.keys_dir),
            "PORT": str(self.port),
            "GUEST_LIMIT": "off",
            "DRAIN_SECONDS": "1",
            "LOG_FORMAT": "json",
            **settings,
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *, ready: bool = True) -> None:
        """Start it and, unless told otherwise, wait until it is ready. Raises `StageError`."""
        self.process = process = stage.spawn(self.log, self.settings, tree=self.tree)
        if ready:
            until(lambda: self.ready() == 200 or process.poll() is not None)
            if self.ready() != 200:
                raise StageError(f"the service does not start: {stage.last_line(self.log)}")

    def signal(self, number: int) -> None:
        self._started().send_signal(number)

    def wait(self, patience: float = 30.0) -> int:
        """Return the exit code."""
        return self._started().wait(patience)

    def stop(self) -> None:
        if self.process:
            stage.stop(self.process)

    @property
    def pid(self) -> int:
        return self._started().pid

    @property
    def runs(self) -> bool:
        return self._started().poll() is None

    def ready(self) -> int:
        """Return the status of /ready, 0 when nobody answers."""
        return once(self.port, Request("GET", "/ready")).status

    def health(self) -> int:
        return once(self.port, Request("GET", "/health")).status

    def lines(self) -> list[str]:
        return self.log.read_text(errors="replace").rpartition("\n")[0].splitlines()

    def _started(self) -> "subprocess.Popen[bytes]":
        if self.process is None:
            raise StageError("the service was not started")
        return self.process


@contextmanager
def service(
    folder: Path, database_url: str, *, ready: bool = True, tree: Path = ROOT, **settings: str
) -> Iterator[Service]:
    """Yield a service that runs, and stop it at the end."""
    made = Service(folder, database_url, tree, **settings)
    try:
        made.start(ready=ready)
        yield made
    finally:
        made.stop()


@dataclass(frozen=True)
class Tenant:
    """A guest with an organization, and the requests that it makes."""

    token: str
    org: str

    def create(self, name: str, **headers: str) -> Request:
        """Ask for a new project; headers by their names with `_` for `-`."""
        fields = tuple((key.replace("_", "-"), value) for key, value in headers.items())
        body = json.dumps({"name": name}).encode()
        return Request("POST", f"/orgs/{self.org}/projects", self.token, body, fields)

    def list(self, limit: int = 5) -> Request:
        return Request("GET", f"/orgs/{self.org}/projects?limit={limit}", self.token)

    def get(self, project: str) -> Request:
        return Request("GET", f"/orgs/{self.org}/projects/{project}", self.token)

    def delete(self, project: str) -> Request:
        return Request("DELETE", f"/orgs/{self.org}/projects/{project}", self.token)


def tenant(port: int, name: str = "Acme") -> Tenant:
    """Sign in as a new guest and make its organization. Raises `StageError`."""
    token = made(once(port, Request("POST", "/auth/guest")))["access_token"]
    body = json.dumps({"name": name}).encode()
    return Tenant(token, made(once(port, Request("POST", "/orgs", token, body)))["id"])


def made(reply: Reply) -> dict[str, str]:
    """Return what was created. Raises `StageError` when nothing was."""
    if reply.status != 201:
        raise StageError(f"{reply.request.path}: {reply.status} {reply.body[:200].decode()}")
    return parsed(reply)


def parsed(reply: Reply) -> dict[str, str]:
    body: dict[str, str] = json.loads(reply.body)
    return body


@contextmanager
def running(command: list[str], log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a program until the end of the block."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, preexec_fn=stage.end_with_parent
        )
    try:
        yield process
    finally:
        stage.stop(process)


def program(name: str, package: str = "") -> str:
    """Return the path of a program. Raises `NotRun`."""
    found = stage.program(name)
    if found is None:
        raise NotRun(f"{name} is not installed (Debian: apt-get install {package or name})")
    return found


def resident_bytes(pid: int) -> int:
    """Return what a process holds in memory, 0 when it has ended."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    return 0


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))
