"""A locked table: statements on it end at their timeout, and nothing else waits."""

import time

import psycopg

from evidence.harness.postgres import postgres
from evidence.harness.services import serving
from evidence.resilience.load import (
    Request,
    Stream,
    latency_percentile,
    loading,
    summarize,
    tally,
)
from evidence.resilience.scenario import Scenario, Trial, format_duration
from evidence.resilience.tenants import create_tenant

HEALTH = Request("GET", "/health")
# The longest that a request may take: waiting for a connection, then the statement.
MAX_REQUEST_SECONDS = 5.0


def locked(trial: Trial) -> None:
    """Hold an exclusive lock on a table in another session for a while."""
    seconds = 12 if trial.is_short else 15
    with (
        postgres(trial.folder) as database,
        serving(trial.folder, database.app_url) as service,
    ):
        tenant = create_tenant(service.port)
        read = Stream("read", lambda _: tenant.list(), 8, 0.02)
        health = Stream("health", lambda _: HEALTH, 1, 0.02)
        with loading(service.port, read, health) as load:
            time.sleep(0.5)
            with psycopg.connect(database.superuser_url()) as holder:
                holder.execute("lock table projects in access exclusive mode")
                locked_at = time.monotonic()
                time.sleep(seconds)
                holder.rollback()
            freed_at = time.monotonic()
            time.sleep(2)
            responses = load.stop()
    blocked = [
        r
        for r in responses
        if r.stream == "read" and locked_at + 0.1 < r.started < freed_at - MAX_REQUEST_SECONDS
    ]
    others = [r for r in blocked if not r.is_retryable_503]
    trial.record(f"during the lock: {tally(blocked)}")
    trial.expect(blocked, "no request was sent while the table was locked")
    trial.expect(not others, f"not 503 with Retry-After: {summarize(others)}")
    slowest = max((r.seconds for r in responses), default=0.0)
    trial.expect_within("slowest", slowest, MAX_REQUEST_SECONDS)
    p99 = latency_percentile([r for r in responses if r.stream == "health"], 0.99)
    trial.expect_within("/health p99", p99, 0.1)
    last_failure = max((r.ended for r in responses if r.status != 200), default=freed_at)
    recovery = max(0.0, last_failure - freed_at)
    trial.record(f"served again after {format_duration(recovery)}")
    trial.expect(recovery < 1, "requests fail a second after the lock was released")


SCENARIOS = (
    Scenario(
        "locked",
        "a table is locked: 503 with Retry-After within 5 s, /health p99 100 ms, normal within 1 s",
        locked,
    ),
)
