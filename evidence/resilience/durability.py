"""Acknowledged writes survive: PostgreSQL is killed, or a standby is promoted."""

import os
import secrets
import shutil
import subprocess
import time
from pathlib import Path

from db.connections.database import MAYBE_APPLIED
from dev.local import embedded
from evidence.harness.postgres import Postgres, postgres
from evidence.harness.processes import HarnessError, wait_until
from evidence.harness.services import serving
from evidence.resilience.load import Response, Stream, failures, loading, summarize
from evidence.resilience.scenario import Scenario, Trial, format_duration
from evidence.resilience.tenants import create_tenant, created_resource

IN_SYNC = "select from pg_stat_replication where sync_state = 'sync'"


def acknowledged(trial: Trial) -> None:
    """Kill PostgreSQL during writes, and look for the rows of every 201."""
    run = secrets.token_hex(4)
    with (
        postgres(trial.folder, fsync=True) as database,
        serving(trial.folder, database.app_url) as service,
    ):
        tenant = create_tenant(service.port)
        write = Stream("write", lambda n: tenant.create(f"{run} {n}"), 16)
        with loading(service.port, write) as load:
            for _ in range(1 if trial.is_short else 5):
                time.sleep(1)
                database.kill()
                database.start()
                wait_until(lambda: service.ready() == 200, 5)
            time.sleep(1)
            responses = load.stop()
        _compare(trial, responses, database)


def _compare(trial: Trial, responses: list[Response], database: Postgres) -> None:
    """Compare the responses with the rows: none is lost, and every other row is explained."""
    ids = [created_resource(response)["id"] for response in responses if response.status == 201]
    rows = [str(row[0]) for row in database.rows("select id from projects")]
    uncertain = [r for r in responses if r.status == 503 and MAYBE_APPLIED.encode() in r.body]
    trial.record(f"{len(ids):,} acknowledged, {len(rows):,} rows")
    trial.record(f"{len(uncertain)} with an uncertain outcome")
    missing = set(ids) - set(rows)
    trial.expect(not missing, f"{len(missing)} acknowledged rows are missing")
    trial.expect(len(set(ids)) == len(ids), "an id was issued twice")
    others = [r for r in failures(responses) if not r.is_retryable_503]
    trial.expect(not others, f"not 503 with Retry-After: {summarize(others)}")
    surplus = len(rows) - len(ids)
    trial.expect(
        surplus <= len(uncertain),
        f"{surplus} rows were not acknowledged, but only {len(uncertain)} outcomes are uncertain",
    )


def failover(trial: Trial) -> None:
    """Kill the primary, and promote its synchronous standby at another address."""
    primary = Postgres(trial.folder / "primary", fsync=True)
    standby: Postgres | None = None
    run = secrets.token_hex(4)
    try:
        primary.prepare()
        standby = _standby(trial.folder, primary)
        url = f"{primary.app_url}?target_session_attrs=read-write".replace(
            f":{primary.port}/", f":{primary.port},127.0.0.1:{standby.port}/"
        )
        with serving(trial.folder, url) as service:
            tenant, pid = create_tenant(service.port), service.pid
            write = Stream("write", lambda n: tenant.create(f"{run} {n}"), 4, 0.005)
            with loading(service.port, write) as load:
                time.sleep(1)
                primary.kill()
                killed = time.monotonic()
                time.sleep(1)
                standby.execute("alter system reset synchronous_standby_names")
                standby.execute("select pg_promote()")
                promoted = time.monotonic()
                wait_until(lambda: service.ready() == 200, 20)
                time.sleep(1)
                responses = load.stop()
            _record_takeover(trial, responses, killed, promoted)
            _compare(trial, responses, standby)
            trial.expect(service.is_running and service.pid == pid, "the service exited")
    finally:
        primary.stop()
        if standby:
            standby.stop()


def _record_takeover(
    trial: Trial, responses: list[Response], killed: float, promoted: float
) -> None:
    written = [r.ended for r in responses if r.started > killed and r.status == 201]
    first = min(written, default=float("inf"))
    trial.expect_within("written again after the promotion", max(0.0, first - promoted), 2.0)
    trial.record(f"{format_duration(first - killed)} after the kill")


def _standby(folder: Path, primary: Postgres) -> Postgres:
    """Return a synchronous standby of `primary` that has caught up."""
    standby = Postgres(folder / "standby", fsync=True, primary=primary)
    standby.folder.mkdir(mode=0o700)
    shutil.copy2(primary.folder / "password", standby.folder / "password")
    data = standby.folder / "data"
    source = f"{primary.superuser_url('postgres')}?application_name=standby"
    command = [str(embedded.binary("pg_basebackup")), "-d", source, "-D", str(data)]
    command += ["-R", "-X", "stream", "-c", "fast"]
    backup = subprocess.run(command, capture_output=True, text=True, check=False)
    if backup.returncode:
        raise HarnessError(f"pg_basebackup: {backup.stderr.strip()}")
    owner = os.stat(primary.folder / "data")
    for path in (data, *data.rglob("*")):
        os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
    standby.start()
    primary.execute("alter system set synchronous_standby_names = 'standby'")
    primary.execute("select pg_reload_conf()")
    if not wait_until(lambda: len(primary.rows(IN_SYNC)) == 1, 10):
        raise HarnessError("the standby does not catch up with the primary within 10 s")
    return standby


SCENARIOS = (
    Scenario(
        "acknowledged",
        "PostgreSQL is killed during writes: every acknowledged row exists, none twice",
        acknowledged,
    ),
    Scenario(
        "failover",
        "a standby is promoted at another address: written again within 2 s, without a restart",
        failover,
    ),
)
