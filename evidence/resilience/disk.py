"""The disk is full: that of the database, and that of the service's log."""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from evidence.harness.postgres import postgres
from evidence.harness.processes import HarnessError
from evidence.harness.services import Service, serving
from evidence.resilience.load import Reply, failed, once, tally, told
from evidence.resilience.scenario import NotRun, Scenario, Trial, require_program, until
from evidence.resilience.tenants import Tenant, tenant

DISK_MB = 200
# Some rows fit into pages and the log as they are; then the tables must grow.
MOST_WRITES = 40_000


def full(trial: Trial) -> None:
    """A file takes what is left of the database's disk; rows are written until one is refused."""
    with (
        small(trial.folder / "disk", DISK_MB) as disk,
        postgres(disk, options=("--max_wal_size=64MB", "--min_wal_size=32MB")) as database,
        serving(trial.folder, database.app_url) as service,
    ):
        acme, ballast = tenant(service.port), disk / "ballast"
        kept = json.loads(once(service.port, acme.create("kept")).body)["id"]
        pid = database.pid
        fill(ballast)
        refused = _until_refused(service, acme)
        trial.note(f"refused with {tally(refused[:1])}")
        trial.demand(bool(refused), "no write was refused: the disk is not full")
        for reply in refused:
            is_right = reply.status == 503 and b'"code":"disk-full"' in reply.body
            trial.demand(is_right, f"a write: {reply}")
        reads = [once(service.port, acme.get(kept)) for _ in range(20)]
        trial.note(f"{len(reads) - len(failed(reads))} of {len(reads)} reads answered")
        trial.demand(not failed(reads), f"reads while the disk is full: {told(failed(reads))}")
        trial.demand(service.ready() == 200, "/ready is not 200, although reads work")
        ballast.unlink()
        freed = until(lambda: once(service.port, acme.create(f"after {time.time()}")).status == 201)
        trial.within("written again after", freed, 5.0)
        trial.demand(database.pid == pid, "PostgreSQL was started again")
        trial.demand(service.is_running, "the service ended")


def _until_refused(service: Service, acme: Tenant) -> list[Reply]:
    """Write long names until ten writes were refused."""
    refused: list[Reply] = []
    for number in range(MOST_WRITES):
        name = f"{number} ".ljust(100, "x")
        reply = once(service.port, acme.create(name))
        if reply.status != 201:
            refused.append(reply)
            if len(refused) == 10:
                break
    return refused


def log_full(trial: Trial) -> None:
    """The service cannot write its log: it serves all the same."""
    with postgres(trial.folder) as database, small(trial.folder / "disk", 1) as disk:
        made = Service(trial.folder, database.app_url)
        made.log = disk / "service.log"
        try:
            made.start()
            acme = tenant(made.port)
            fill(disk / "ballast")
            size = made.log.stat().st_size
            replies = [once(made.port, acme.list()) for _ in range(300)]
            trial.demand(made.log.stat().st_size - size < 60_000, "the disk is not full")
            trial.note(f"{len(failed(replies))} failed of {len(replies)}")
            trial.demand(not failed(replies), f"failed: {told(failed(replies))}")
            (disk / "ballast").unlink()
            again = until(lambda: _logs_again(made, acme))
            trial.within("logged again after", again, 1.0)
        finally:
            made.stop()
        code = made.wait()
        trial.note(f"exit {code}")
        trial.demand(code == 0, f"exit {code}")
        trial.demand(_torn(made) == 0, f"lines of the log that are not whole: {_torn(made)}")


def _logs_again(service: Service, acme: Tenant) -> bool:
    """Make a request, and tell whether the log says that lines of others were lost."""
    once(service.port, acme.list())
    return any('"event":"log lines lost"' in line for line in service.log_lines())


def _torn(service: Service) -> int:
    """Return how many lines of the log are not whole."""
    lines = service.log.read_text(errors="replace").splitlines()
    return sum(not (line.startswith("{") and line.endswith("}")) for line in lines)


def fill(file: Path) -> None:
    """Write until there is no space left."""
    with file.open("wb", buffering=0) as ballast, suppress(OSError):
        for size in (1 << 20, 4096):
            with suppress(OSError):
                while True:
                    ballast.write(b"\0" * size)


@contextmanager
def small(folder: Path, megabytes: int) -> Iterator[Path]:
    """Yield a file system of its own. Raises `NotRun` for whom may not mount one."""
    folder.mkdir()
    command = [
        require_program("mount"),
        "-t",
        "tmpfs",
        "-o",
        f"size={megabytes}m,mode=0755",
        "none",
        str(folder),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if os.geteuid() or done.returncode:
        raise NotRun("a small disk cannot be mounted here: only root may, and not everywhere")
    try:
        yield folder
    finally:
        if subprocess.run(["umount", str(folder)], check=False).returncode:
            raise HarnessError(f"{folder} cannot be unmounted")


SCENARIOS = (
    Scenario(
        "disk",
        "the database's disk is full: reads go on, writes get their own 503; back with space",
        full,
        limit=180,
    ),
    Scenario(
        "log",
        "the log's disk is full: 0 requests fail, and it logs again, whole lines only",
        log_full,
        short=True,
    ),
)
