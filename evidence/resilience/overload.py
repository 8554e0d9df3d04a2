"""Ten times the capacity is requested: by all tenants, or by one of several.

A trigger makes every insert of a project take 0.1 s. Five write connections then complete 50
inserts per second, and the processors stay idle: neither the service nor the load generator is
the bottleneck.
"""

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

from evidence.harness.postgres import postgres
from evidence.harness.process_stats import resident_bytes
from evidence.harness.services import Service, serving
from evidence.resilience.load import (
    Request,
    Response,
    Stream,
    latency_percentile,
    loading,
    tally,
)
from evidence.resilience.open_loop import Flow, send_flows
from evidence.resilience.scenario import Scenario, Trial, format_duration
from evidence.resilience.tenants import create_tenant

INSERT_SECONDS = 0.1
WRITE_CONNECTIONS = 5
SLOW_INSERTS = f"""
create function public.slow() returns trigger language plpgsql as $$
begin perform pg_catalog.pg_sleep({INSERT_SECONDS}); return new; end $$;
create trigger slow before insert on public.projects for each row execute function public.slow();
"""
HEALTH = Request("GET", "/health")
OVERLOAD_FACTOR = 10
MAX_REJECTION_SECONDS = 0.5
MAX_GROWTH_MIB = 64
MIB = 2**20


@contextmanager
def _slow_service(trial: Trial) -> Iterator[Service]:
    with postgres(trial.folder) as database:
        database.execute(SLOW_INSERTS)
        with serving(trial.folder, database.app_url) as service:
            yield service


def _percentile(trial: Trial) -> tuple[float, str]:
    """Return a fraction and its name. Tests share the processors: only the median is stable."""
    return (0.5, "p50") if trial.is_short else (0.99, "p99")


def overload(trial: Trial) -> None:
    """Send ten times the capacity on behalf of many tenants."""
    seconds = 8 if trial.is_short else 60
    with _slow_service(trial) as service:
        tenants, number = [create_tenant(service.port) for _ in range(20)], count()
        run = secrets.token_hex(4)

        def create(_: int) -> Request:
            n = next(number)
            return tenants[n % len(tenants)].create(f"{run} {n}")

        started = time.monotonic()
        with loading(service.port, Stream("peak", create, 20)) as load:
            time.sleep(4 if trial.is_short else 10)
            responses = load.stop()
        peak = sum(r.status == 201 for r in responses) / (time.monotonic() - started)
        before = resident_bytes(service.pid)
        excess = Flow("excess", create, OVERLOAD_FACTOR * peak)
        health = Flow("health", lambda _: HEALTH, 20)
        responses = send_flows(service.port, seconds, excess, health)
        growth = (resident_bytes(service.pid) - before) / MIB
        _expect_goodput(trial, [r for r in responses if r.stream == "excess"], peak, seconds)
        _expect_health(trial, [r for r in responses if r.stream == "health"])
        trial.record(f"memory {growth:+.0f} MiB")
        trial.expect(growth < MAX_GROWTH_MIB, f"memory {growth:+.0f} MiB")
        half = Flow("half", create, peak / 2)
        _expect_recovery(trial, send_flows(service.port, 5 if trial.is_short else 10, half))


def _expect_goodput(trial: Trial, responses: list[Response], peak: float, seconds: float) -> None:
    """Check that the excess is rejected, and quickly, while the rest is served at the peak rate."""
    served = [r for r in responses if r.status == 201]
    rejected = [r for r in responses if r.is_retryable_503]
    goodput, requested = len(served) / seconds, len(responses) / seconds
    trial.record(f"peak {peak:.0f}/s, requested {requested:.0f}/s, served {goodput:.0f}/s")
    minimum = 0.6 if trial.is_short else 0.8
    trial.expect(goodput >= minimum * peak, f"goodput is {goodput / peak:.0%} of the peak")
    trial.record(f"served within {format_duration(latency_percentile(served, 1.0))}")
    fraction, name = _percentile(trial)
    latency = latency_percentile(rejected, fraction)
    measurement = f"{len(rejected):,} rejected, {name} {format_duration(latency)}"
    trial.record(measurement)
    # Most rejections are immediate, but a tenant with a longer queue makes way only later.
    trial.expect(latency <= MAX_REJECTION_SECONDS, measurement)
    others = len(responses) - len(served) - len(rejected)
    trial.expect(not others, f"{others} neither served nor rejected: {tally(responses)}")


def _expect_health(trial: Trial, responses: list[Response]) -> None:
    fraction, name = _percentile(trial)
    trial.expect_within(f"/health {name}", latency_percentile(responses, fraction), 0.1)
    trial.expect(all(r.status == 200 for r in responses), f"/health: {tally(responses)}")


def _expect_recovery(trial: Trial, responses: list[Response]) -> None:
    started = min(r.started for r in responses)
    slow = [r.ended for r in responses if r.status != 201 or r.seconds > 3 * INSERT_SECONDS]
    trial.expect_within("normal again after", max(slow, default=started) - started, 5.0)


def fairness(trial: Trial) -> None:
    """Send ten times the capacity on behalf of one tenant, and compare another's latency."""
    seconds = 6 if trial.is_short else 30
    with _slow_service(trial) as service:
        quiet, noisy = (create_tenant(service.port, name) for name in ("Quiet", "Noisy"))
        run, number = secrets.token_hex(4), count()
        capacity = WRITE_CONNECTIONS / INSERT_SECONDS
        calm = Flow("quiet", lambda _: quiet.create(f"{run} {next(number)}"), 4)
        flood = Flow(
            "flood", lambda _: noisy.create(f"{run} {next(number)}"), OVERLOAD_FACTOR * capacity
        )
        alone = send_flows(service.port, seconds, calm)
        responses = send_flows(service.port, seconds, calm, flood)
    beside = [r for r in responses if r.stream == "quiet"]
    flooded = [r for r in responses if r.stream == "flood"]
    fraction, name = _percentile(trial)
    before, after = latency_percentile(alone, fraction), latency_percentile(beside, fraction)
    comparison = f"{format_duration(before)}, during the flood {format_duration(after)}"
    trial.record(f"{name} alone {comparison}")
    trial.expect(after <= 2 * before, f"{name} is {after / before:.1f} times as long")
    failed = [r for r in alone + beside if r.status != 201]
    trial.expect(not failed, f"the quiet tenant: {tally(failed)}")
    trial.record(f"the flood: {tally(flooded)}")
    is_flooded = any(r.status == 503 for r in flooded)
    trial.expect(is_flooded, "no request was rejected: there was no overload")


SCENARIOS = (
    Scenario(
        "overload",
        "10 times the capacity: 80 % of the peak rate is served, the rest gets 503 within 0.5 s, "
        "/health p99 100 ms, normal within 5 s",
        overload,
        timeout=180.0,
        in_tests=True,
    ),
    Scenario(
        "fair",
        "one tenant sends 10 times the capacity: another's p99 at most doubles",
        fairness,
        timeout=150.0,
    ),
)
