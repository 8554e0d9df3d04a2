"""PostgreSQL is restarted, killed, late, or elsewhere."""

import os
import secrets
import shutil
import subprocess
import time
from pathlib import Path

from dev.local import embedded
from evidence.harness.pgbouncer import pooler
from evidence.harness.postgres import Postgres, postgres
from evidence.harness.processes import HarnessError
from evidence.harness.services import Service, serving
from evidence.resilience.load import Reply, Stream, failed, loading, once, percentile, told
from evidence.resilience.scenario import Scenario, Trial, duration, require_program, until
from evidence.resilience.tenants import Tenant, created, tenant

OUTAGE = 1.9
STARTING = 0.25  # seconds that PostgreSQL takes to start


def restarting(trial: Trial) -> None:
    """PostgreSQL is stopped and started again under load, directly."""
    with postgres(trial.folder) as database:
        _restart(trial, database, database.app_url)


def restarting_behind_a_pooler(trial: Trial) -> None:
    """The same through PgBouncer in transaction mode."""
    require_program("pgbouncer")
    with postgres(trial.folder) as database:
        folder = trial.folder / "pooler"
        folder.mkdir()
        with pooler(folder, database.app_url, size=4) as url:
            _restart(trial, database, url, reads_that_may_fail=0.01)


def _restart(trial: Trial, database: Postgres, url: str, reads_that_may_fail: float = 0) -> None:
    """A pooler ends connections of its own while the server is away, more than once."""
    pauses = (0.0,) if trial.short or reads_that_may_fail else (0.0, 1.0, OUTAGE)
    with serving(trial.folder, url) as service:
        acme = tenant(service.port)
        read = Stream("read", lambda _: acme.list(), 8, 0.01)
        with loading(service.port, read, keyed(acme)) as load:
            time.sleep(1)
            outages = []
            for pause in pauses:
                outages.append(_outage(database, service, pause))
                time.sleep(1)
            replies = load.stop()
        rows = len(database.rows("select from projects"))
    lost = failed(replies)
    slowest = max(reply.seconds for reply in replies)
    written = sum(reply.status == 201 for reply in replies)
    trial.demand(rows == written, f"{written} keyed writes answered 201, {rows} rows")
    trial.note(f"outages of {', '.join(duration(s) for s in outages)}")
    kinds = f"{len(replies) - written:,} reads and {written:,} keyed writes"
    trial.note(f"{len(lost)} failed of {kinds}")
    most = reads_that_may_fail * len(replies)
    writes = [r for r in lost if r.stream == "keyed"]
    refused = [r for r in lost if r.status == 503 and "retry-after" in r.headers]
    trial.demand(len(lost) <= most and not writes, f"failed: {told(lost)}")
    trial.demand(len(refused) == len(lost), f"no 503 with Retry-After: {told(lost)}")
    trial.within("slowest", slowest, 3.0)


def keyed(acme: Tenant, clients: int = 4) -> Stream:
    """Projects, each with an Idempotency-Key of its own, so that the service may try again."""
    run = secrets.token_hex(8)
    return Stream(
        "keyed", lambda n: acme.create(f"{run} {n}", Idempotency_Key=f"{run}-{n}"), clients, 0.01
    )


def _outage(database: Postgres, service: Service, pause: float) -> float:
    """Stop PostgreSQL, start it again, and return how long it did not answer: about `pause`."""
    began = time.monotonic()
    database.stop()
    time.sleep(max(0.0, pause - STARTING - (time.monotonic() - began)))
    database.start()
    return time.monotonic() - began


def away(trial: Trial) -> None:
    """PostgreSQL is killed and stays away: refusals at once, and back with it."""
    seconds = 6 if trial.short else 30
    with (
        postgres(trial.folder, fsync=True) as database,
        serving(trial.folder, database.app_url) as service,
    ):
        acme, pid = tenant(service.port), service.pid
        with loading(service.port, Stream("read", lambda _: acme.list(), 4, 0.02)) as load:
            time.sleep(1)
            killed = time.monotonic()
            database.kill()
            trial.within("/ready 503 after", until(lambda: service.ready() == 503, 5), 2.0)
            time.sleep(max(0.0, seconds - (time.monotonic() - killed)))
            trial.demand(service.health() == 200, "/health is not 200")
            started = time.monotonic()
            database.start()
            back = time.monotonic()
            time.sleep(3)
            replies = load.stop()
        _refusals(trial, [r for r in replies if killed + 4 < r.began and r.ended < started])
        late = [r.ended - back for r in replies if r.began > killed and r.status == 200]
        trial.within("served again after", max(0.0, min(late, default=float("inf"))), 1.0)
        after = [r for r in replies if r.began > back + 1 and r.status != 200]
        trial.demand(not after, f"a second after the database: {told(after)}")
        trial.demand(service.is_running and service.pid == pid, "the service ended")
        said = [line for line in service.log_lines() if "the database is away" in line]
        trial.note(f"{len(said)} log lines say that it is away")
        trial.demand(0 < len(said) <= 3, f"{len(said)} log lines say that it is away")


def _refusals(trial: Trial, refused: list[Reply]) -> None:
    """What was asked while the database had been away for a while."""
    others = [r for r in refused if r.status != 503 or "retry-after" not in r.headers]
    trial.note(f"{len(refused):,} refused, p99 {duration(percentile(refused, 0.99))}")
    trial.demand(bool(refused) and not others, f"no 503 with Retry-After: {told(others)}")
    slow = percentile(refused, 0.99)
    trial.demand(slow <= 0.1, f"refusals are not at once: p99 {duration(slow)}")


def acknowledged(trial: Trial) -> None:
    """PostgreSQL is killed while rows are written, and what was answered 201 is looked for."""
    run = secrets.token_hex(4)
    with (
        postgres(trial.folder, fsync=True) as database,
        serving(trial.folder, database.app_url) as service,
    ):
        acme = tenant(service.port)
        write = Stream("write", lambda n: acme.create(f"{run} {n}"), 16)
        with loading(service.port, write) as load:
            for _ in range(1 if trial.short else 5):
                time.sleep(1)
                database.kill()
                database.start()
                until(lambda: service.ready() == 200, 5)
            time.sleep(1)
            replies = load.stop()
        _compare(trial, replies, database)


def _compare(trial: Trial, replies: list[Reply], database: Postgres) -> None:
    answered = [created(reply)["id"] for reply in replies if reply.status == 201]
    rows = [str(row[0]) for row in database.rows("select id from projects")]
    maybe = [r for r in replies if r.status == 503 and b"may have happened" in r.body]
    trial.note(f"{len(answered):,} acknowledged, {len(rows):,} rows")
    trial.note(f"{len(maybe)} answered that they may have happened")
    missing = set(answered) - set(rows)
    trial.demand(not missing, f"{len(missing)} acknowledged rows are missing")
    trial.demand(len(set(answered)) == len(answered), "an id was given out twice")
    others = [r for r in failed(replies) if r.status != 503 or "retry-after" not in r.headers]
    trial.demand(not others, f"no 503 with Retry-After: {told(others)}")
    unknown = len(rows) - len(answered)
    trial.demand(unknown <= len(maybe), f"{unknown} rows of {len(maybe)} that may have happened")


def late(trial: Trial) -> None:
    """The service is started first."""
    with postgres(trial.folder) as database:
        database.stop()
        with serving(trial.folder, database.app_url, ready=False) as service:
            until(lambda: service.health() == 200)
            time.sleep(1.0 if trial.short else 10.0)
            trial.demand(service.ready() == 503, "/ready is not 503")
            database.start()
            trial.within("ready after the database", until(lambda: service.ready() == 200), 2.0)
            acme = tenant(service.port)
            trial.demand(once(service.port, acme.list()).status == 200, "it does not serve")
            lines = [
                line
                for line in service.log_lines()
                if "covenant.database" in line or "away" in line
            ]
            said = [line for line in lines if "the database is away" in line]
            trial.note(f"{len(said)} log line while it waits")
            trial.demand(len(said) == 1, f"{len(said)} log lines say that it is away")


def failover(trial: Trial) -> None:
    """The primary is killed, its synchronous standby promoted at another address."""
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
            acme, pid = tenant(service.port), service.pid
            write = Stream("write", lambda n: acme.create(f"{run} {n}"), 4, 0.005)
            with loading(service.port, write) as load:
                time.sleep(1)
                killed = time.monotonic()
                primary.kill()
                time.sleep(1)
                standby.execute("alter system reset synchronous_standby_names")
                standby.execute("select pg_promote()")
                promoted = time.monotonic()
                until(lambda: service.ready() == 200, 20)
                time.sleep(1)
                replies = load.stop()
            _took_over(trial, replies, killed, promoted)
            _compare(trial, replies, standby)
            trial.demand(service.is_running and service.pid == pid, "the service was started again")
    finally:
        primary.stop()
        if standby:
            standby.stop()


def _took_over(trial: Trial, replies: list[Reply], killed: float, promoted: float) -> None:
    again = min((r.ended for r in replies if r.began > killed and r.status == 201), default=None)
    ended = float("inf") if again is None else again
    trial.within("written again after the promotion", max(0.0, ended - promoted), 2.0)
    trial.note(f"{duration(ended - killed)} after the kill")


def _standby(folder: Path, primary: Postgres) -> Postgres:
    """Return a standby of `primary` that is in step with it."""
    standby = Postgres(folder / "standby", fsync=True, primary=primary)
    standby.folder.mkdir(mode=0o700)
    shutil.copy2(primary.folder / "password", standby.folder / "password")
    data = standby.folder / "data"
    backup = embedded.binary("pg_basebackup")
    source = f"{primary.superuser_url('postgres')}?application_name=standby"
    command = [str(backup), "-d", source, "-D", str(data), "-R", "-X", "stream", "-c", "fast"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise HarnessError(f"pg_basebackup: {done.stderr.strip()}")
    owner = os.stat(primary.folder / "data")
    for path in (data, *data.rglob("*")):
        os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
    standby.start()
    primary.execute("alter system set synchronous_standby_names = 'standby'")
    primary.execute("select pg_reload_conf()")
    in_step = "select from pg_stat_replication where sync_state = 'sync'"
    if until(lambda: len(primary.rows(in_step)) == 1, 10) > 10:
        raise HarnessError("the standby does not follow")
    return standby


SCENARIOS = (
    Scenario(
        "restart",
        "restart of PostgreSQL, away for up to 2 s: no read and no keyed write fails",
        restarting,
        short=True,
    ),
    Scenario(
        "restart-pooled",
        "restart behind PgBouncer: no keyed write fails; under 1 % of reads do, with 503",
        restarting_behind_a_pooler,
    ),
    Scenario(
        "away",
        "PostgreSQL killed, away 30 s: /ready 503 within 2 s, 503 at once, back within 1 s of it",
        away,
    ),
    Scenario(
        "acknowledged",
        "PostgreSQL killed during writes: each acknowledged one is present, none doubled",
        acknowledged,
    ),
    Scenario(
        "late",
        "PostgreSQL comes after the service: one line, ready within 2 s of it",
        late,
    ),
    Scenario(
        "failover",
        "a standby is promoted at another address: written again within 2 s, without a restart",
        failover,
    ),
)
