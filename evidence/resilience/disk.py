"""A full disk: that of the database, and that of the service's log."""

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
from evidence.resilience.load import Response, failures, send_once, summarize, tally
from evidence.resilience.scenario import NotRun, Scenario, Trial, require_program, seconds_until
from evidence.resilience.tenants import Tenant, create_tenant

DATABASE_DISK_MB, LOG_DISK_MB = 200, 1
# The first rows fit into allocated pages and write-ahead log; then the files must grow.
MAX_WRITES = 40_000
REJECTED_WRITES = 10
# What 300 requests would log on a disk that is not full.
MIN_LOG_BYTES = 60_000


def full_database_disk(trial: Trial) -> None:
    """Fill the database's disk with a file, then write until PostgreSQL needs space."""
    with (
        small_disk(trial.folder / "disk", DATABASE_DISK_MB) as disk,
        postgres(disk, options=("--max_wal_size=64MB", "--min_wal_size=32MB")) as database,
        serving(trial.folder, database.app_url) as service,
    ):
        tenant, ballast = create_tenant(service.port), disk / "ballast"
        kept = json.loads(send_once(service.port, tenant.create("kept")).body)["id"]
        pid = database.pid
        fill(ballast)
        rejected = _write_until_rejected(service, tenant)
        trial.record(f"writes rejected with {tally(rejected)}")
        trial.expect(rejected, "no write was rejected: the disk is not full")
        for response in rejected:
            is_right = response.status == 503 and b'"code":"disk-full"' in response.body
            trial.expect(is_right, f"a write: {response}")
        reads = [send_once(service.port, tenant.get(kept)) for _ in range(20)]
        failed = failures(reads)
        trial.record(f"{len(reads) - len(failed)} of {len(reads)} reads succeed")
        trial.expect(not failed, f"reads while the disk is full: {summarize(failed)}")
        trial.expect(service.ready() == 200, "/ready is not 200, although reads work")
        ballast.unlink()
        recovery = seconds_until(
            lambda: send_once(service.port, tenant.create(f"after {time.time()}")).status == 201
        )
        trial.expect_within("written again after", recovery, 5.0)
        trial.expect(database.pid == pid, "PostgreSQL restarted")
        trial.expect(service.is_running, "the service exited")


def _write_until_rejected(service: Service, tenant: Tenant) -> list[Response]:
    """Create projects with long names until some are rejected; return those responses."""
    rejected: list[Response] = []
    for number in range(MAX_WRITES):
        name = f"{number} ".ljust(100, "x")
        response = send_once(service.port, tenant.create(name))
        if response.status != 201:
            rejected.append(response)
            if len(rejected) == REJECTED_WRITES:
                break
    return rejected


def full_log_disk(trial: Trial) -> None:
    """Fill the disk of the service's log, then free it. Requests must succeed throughout."""
    with (
        postgres(trial.folder) as database,
        small_disk(trial.folder / "disk", LOG_DISK_MB) as disk,
    ):
        service = Service(trial.folder, database.app_url)
        service.log = disk / "service.log"
        try:
            service.start()
            tenant = create_tenant(service.port)
            fill(disk / "ballast")
            size = service.log.stat().st_size
            responses = [send_once(service.port, tenant.list()) for _ in range(300)]
            failed = failures(responses)
            is_full = service.log.stat().st_size - size < MIN_LOG_BYTES
            trial.expect(is_full, "the log still grows: its disk is not full")
            trial.record(f"{len(failed)} failed of {len(responses)}")
            trial.expect(not failed, f"failed: {summarize(failed)}")
            (disk / "ballast").unlink()
            recovery = seconds_until(lambda: _reports_lost_lines(service, tenant))
            trial.expect_within("logs again after", recovery, 1.0)
        finally:
            service.stop()
        code = service.wait()
        trial.record(f"exit {code}")
        trial.expect(code == 0, f"exit {code}")
        torn = _torn_lines(service)
        trial.expect(not torn, f"incomplete log lines: {torn}"[:400])


def _reports_lost_lines(service: Service, tenant: Tenant) -> bool:
    """Send a request, and return whether the log reports lost lines."""
    send_once(service.port, tenant.list())
    return any('"event":"log_lines_lost"' in line for line in service.log_lines())


def _torn_lines(service: Service) -> list[str]:
    """Return the lines of the log that are not a whole JSON object."""
    lines = service.log.read_text(errors="replace").splitlines()
    return [line for line in lines if not (line.startswith("{") and line.endswith("}"))]


def fill(file: Path) -> None:
    """Write zeros until the disk is full."""
    with file.open("wb", buffering=0) as ballast, suppress(OSError):
        for size in (1 << 20, 4096):
            with suppress(OSError):
                while True:
                    ballast.write(b"\0" * size)


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """Mount a tmpfs until the end of the block. Raises `NotRun` unless root may mount one."""
    folder.mkdir()
    options = f"size={megabytes}m,mode=0755"
    command = [require_program("mount"), "-t", "tmpfs", "-o", options, "none", str(folder)]
    mount = subprocess.run(command, capture_output=True, text=True, check=False)
    if os.geteuid() or mount.returncode:
        raise NotRun("cannot mount a tmpfs: this needs root, and is not allowed in every container")
    try:
        yield folder
    finally:
        if subprocess.run(["umount", str(folder)], check=False).returncode:
            raise HarnessError(f"cannot unmount {folder}")


SCENARIOS = (
    Scenario(
        "disk",
        "the database's disk is full: reads go on, writes get 503 disk-full, until there is space",
        full_database_disk,
        timeout=180,
    ),
    Scenario(
        "log",
        "the log's disk is full: 0 requests fail; with space it logs again, whole lines only",
        full_log_disk,
        in_tests=True,
    ),
)
