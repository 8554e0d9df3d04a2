"""PostgreSQL restarts, goes away, or starts after the service."""

import time

from evidence.harness.pgbouncer import pooler
from evidence.harness.postgres import Postgres, postgres
from evidence.harness.processes import wait_until
from evidence.harness.services import Service, serving
from evidence.resilience.load import (
    Response,
    Stream,
    failures,
    latency_percentile,
    loading,
    send_once,
    summarize,
)
from evidence.resilience.scenario import (
    Scenario,
    Trial,
    format_duration,
    require_program,
    seconds_until,
)
from evidence.resilience.tenants import create_tenant, keyed_writes

LONGEST_OUTAGE_SECONDS = 1.9
START_SECONDS = 0.25  # how long PostgreSQL takes to start
# The event is logged once per outage; a reconnect may fail again while PostgreSQL recovers.
MAX_NOT_READY_LINES = 3
NOT_READY = '"event":"database_not_ready"'


def restart(trial: Trial) -> None:
    """Stop PostgreSQL and start it again under load, with direct connections."""
    with postgres(trial.folder) as database:
        _restart(trial, database, database.app_url)


def restart_behind_pooler(trial: Trial) -> None:
    """Do the same behind PgBouncer in transaction mode."""
    require_program("pgbouncer")
    with postgres(trial.folder) as database:
        folder = trial.folder / "pooler"
        folder.mkdir()
        with pooler(folder, database.app_url, size=4) as url:
            # PgBouncer itself closes connections during an outage, more than once.
            _restart(trial, database, url, failed_reads_allowed=0.01)


def _restart(
    trial: Trial, database: Postgres, url: str, *, failed_reads_allowed: float = 0
) -> None:
    """Restart PostgreSQL under load. `failed_reads_allowed` is a fraction of all requests."""
    pauses = (
        (0.0,) if trial.is_short or failed_reads_allowed else (0.0, 1.0, LONGEST_OUTAGE_SECONDS)
    )
    with serving(trial.folder, url) as service:
        tenant = create_tenant(service.port)
        read = Stream("read", lambda _: tenant.list(), 8, 0.01)
        with loading(service.port, read, keyed_writes(tenant)) as load:
            time.sleep(1)
            outages = []
            for pause in pauses:
                outages.append(_outage(database, pause))
                time.sleep(1)
            responses = load.stop()
        rows = len(database.rows("select from projects"))
    failed = failures(responses)
    written = sum(response.status == 201 for response in responses)
    trial.expect(rows == written, f"{written} keyed writes got 201, but there are {rows} rows")
    trial.record(f"outages of {', '.join(format_duration(s) for s in outages)}")
    kinds = f"{len(responses) - written:,} reads and {written:,} keyed writes"
    trial.record(f"{len(failed)} failed of {kinds}")
    failed_writes = [r for r in failed if r.stream == "keyed"]
    is_tolerable = len(failed) <= failed_reads_allowed * len(responses) and not failed_writes
    trial.expect(is_tolerable, f"failed: {summarize(failed)}")
    trial.expect(
        all(r.is_retryable_503 for r in failed), f"not 503 with Retry-After: {summarize(failed)}"
    )
    trial.expect_within("slowest", max(response.seconds for response in responses), 3.0)


def _outage(database: Postgres, pause: float) -> float:
    """Restart PostgreSQL, and return how long it was away: about `pause` seconds."""
    started = time.monotonic()
    database.stop()
    time.sleep(max(0.0, pause - START_SECONDS - (time.monotonic() - started)))
    database.start()
    return time.monotonic() - started


def away(trial: Trial) -> None:
    """Kill PostgreSQL and start it only after a while."""
    seconds = 6 if trial.is_short else 30
    with (
        postgres(trial.folder, fsync=True) as database,
        serving(trial.folder, database.app_url) as service,
    ):
        tenant, pid = create_tenant(service.port), service.pid
        with loading(service.port, Stream("read", lambda _: tenant.list(), 4, 0.02)) as load:
            time.sleep(1)
            killed = time.monotonic()
            database.kill()
            not_ready = seconds_until(lambda: service.ready() == 503, 5)
            trial.expect_within("/ready 503 after", not_ready, 2.0)
            time.sleep(max(0.0, seconds - (time.monotonic() - killed)))
            trial.expect(service.health() == 200, "/health is not 200 during the outage")
            restarting = time.monotonic()
            database.start()
            restarted = time.monotonic()
            time.sleep(3)
            responses = load.stop()
        _expect_fast_rejections(
            trial, [r for r in responses if killed + 4 < r.started and r.ended < restarting]
        )
        served = [
            r.ended - restarted for r in responses if r.ended > restarting and r.status == 200
        ]
        recovery = max(0.0, min(served, default=float("inf")))
        trial.expect_within("served again after", recovery, 1.0)
        failed = [r for r in responses if r.started > restarted + 1 and r.status != 200]
        trial.expect(not failed, f"failed a second after PostgreSQL started: {summarize(failed)}")
        trial.expect(service.is_running and service.pid == pid, "the service exited")
        count = _not_ready_lines(service)
        trial.record(f"{count} log lines `database_not_ready`")
        trial.expect(0 < count <= MAX_NOT_READY_LINES, f"{count} log lines `database_not_ready`")


def _expect_fast_rejections(trial: Trial, responses: list[Response]) -> None:
    """Check the requests that were sent when the outage had lasted for a while."""
    others = [r for r in responses if not r.is_retryable_503]
    p99 = latency_percentile(responses, 0.99)
    trial.record(f"{len(responses):,} rejected, p99 {format_duration(p99)}")
    trial.expect(responses, "no request was sent during the outage")
    trial.expect(not others, f"not 503 with Retry-After: {summarize(others)}")
    trial.expect(p99 <= 0.1, f"rejections are slow: p99 {format_duration(p99)}, limit 100 ms")


def _not_ready_lines(service: Service) -> int:
    return sum(NOT_READY in line for line in service.log_lines())


def late(trial: Trial) -> None:
    """Start the service before PostgreSQL."""
    with postgres(trial.folder) as database:
        database.stop()
        with serving(trial.folder, database.app_url, ready=False) as service:
            wait_until(lambda: service.health() == 200, 20)
            time.sleep(1.0 if trial.is_short else 10.0)
            trial.expect(service.ready() == 503, "/ready is not 503")
            database.start()
            ready = seconds_until(lambda: service.ready() == 200)
            trial.expect_within("ready after the database", ready, 2.0)
            tenant = create_tenant(service.port)
            trial.expect(send_once(service.port, tenant.list()).status == 200, "it does not serve")
            count = _not_ready_lines(service)
            trial.record(f"{count} log line `database_not_ready`")
            trial.expect(count == 1, f"{count} log lines `database_not_ready`, expected 1")


SCENARIOS = (
    Scenario(
        "restart",
        "PostgreSQL restarts, away for up to 2 s: no read and no keyed write fails",
        restart,
        in_tests=True,
    ),
    Scenario(
        "restart-pooled",
        "it restarts behind PgBouncer: no keyed write fails; under 1 % of reads do, with 503",
        restart_behind_pooler,
    ),
    Scenario(
        "away",
        "PostgreSQL is killed, away 30 s: /ready 503 within 2 s, fast 503s, back within 1 s",
        away,
    ),
    Scenario(
        "late",
        "PostgreSQL starts after the service: one log line, ready within 2 s",
        late,
    ),
)
