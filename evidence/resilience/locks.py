"""A table that is locked: each statement on it ends at its time limit, and nothing else waits."""

import time

import psycopg

from evidence.harness.postgres import postgres
from evidence.harness.services import serving
from evidence.resilience.load import Request, Stream, loading, percentile, tally, told
from evidence.resilience.scenario import Scenario, Trial, duration
from evidence.resilience.tenants import tenant

HEALTH = Request("GET", "/health")
# The longest that a request may take: to wait for a connection, and the statement.
LIMIT = 5.0


def locked(trial: Trial) -> None:
    """Another session holds the table for a while."""
    seconds = 6 if trial.short else 15
    with (
        postgres(trial.folder) as database,
        serving(trial.folder, database.app_url) as service,
    ):
        acme = tenant(service.port)
        read = Stream("read", lambda _: acme.list(), 8, 0.02)
        health = Stream("health", lambda _: HEALTH, 1, 0.02)
        with loading(service.port, read, health) as load:
            time.sleep(0.5)
            with psycopg.connect(database.superuser_url()) as holder:
                holder.execute("lock table projects in access exclusive mode")
                began = time.monotonic()
                time.sleep(seconds)
                holder.rollback()
            freed = time.monotonic()
            time.sleep(2)
            replies = load.stop()
        behind = [
            r for r in replies if r.stream == "read" and began + 0.1 < r.began < freed - LIMIT
        ]
        odd = [r for r in behind if r.status != 503 or "retry-after" not in r.headers]
        slowest = max((r.seconds for r in replies), default=0.0)
        trial.note(f"{len(behind)} answered {tally(behind)}")
        trial.demand(bool(behind) and not odd, f"no 503 with Retry-After: {told(odd)}")
        trial.within("slowest", slowest, LIMIT)
        p99 = percentile([r for r in replies if r.stream == "health"], 0.99)
        trial.within("/health p99", p99, 0.1)
        last = max((r.ended for r in replies if r.status != 200), default=freed)
        trial.note(f"served again after {duration(max(0.0, last - freed))}")
        trial.demand(last - freed < 1, "requests fail a second after the table was free")


SCENARIOS = (
    Scenario(
        "locked",
        "a table is locked: 503 with Retry-After within 5 s, /health p99 100 ms, normal within 1 s",
        locked,
    ),
)
