"""Half of the peak load for a long time: memory, descriptors and connections must not grow."""

import secrets
import time
from dataclasses import dataclass

from evidence.harness.postgres import Postgres, postgres
from evidence.harness.process_stats import open_descriptors, resident_bytes
from evidence.harness.services import Service, serving
from evidence.resilience.load import Stream, failures, latency_percentile, loading, summarize
from evidence.resilience.scenario import Scenario, Trial, format_duration
from evidence.resilience.tenants import Tenant, create_tenant

PEAK_SECONDS = 4
# Caches fill during the first part of the soak.
WARM_UP_FRACTION = 0.25
MAX_SLOPE_MB = 1.0  # per ten minutes
CONNECTIONS = "select count(*) from pg_stat_activity where usename = 'covenant_app'"


@dataclass(frozen=True)
class Sample:
    """The state of the service `seconds` after the start of the soak."""

    seconds: float
    resident_bytes: int
    descriptors: int
    connections: int


def soak(trial: Trial) -> None:
    """Sample the process every second, and fit a line through its memory."""
    seconds = 20.0 if trial.is_short else 60 * trial.minutes
    with (
        postgres(trial.folder) as database,
        serving(trial.folder, database.app_url) as service,
    ):
        tenants = [create_tenant(service.port, f"Acme {n}") for n in range(8)]
        peak = _peak_rate(service.port, tenants)
        streams = _mixed_streams(tenants, 0)
        clients = sum(stream.clients for stream in streams)
        samples: list[Sample] = []
        with loading(service.port, *_mixed_streams(tenants, clients / (peak / 2))) as load:
            started = time.monotonic()
            while time.monotonic() - started < seconds:
                samples.append(_sample(service, database, time.monotonic() - started))
                time.sleep(1)
            responses = load.stop()
    rate, failed = len(responses) / seconds, failures(responses)
    p99 = latency_percentile(responses, 0.99)
    trial.record(f"{seconds / 60:.3g} min at {rate:,.0f}/s; peak {peak:,.0f}/s")
    trial.record(f"{len(failed)} failed, p99 {format_duration(p99)}")
    trial.expect(not failed, f"failed: {summarize(failed)}")
    _expect_no_growth(trial, [s for s in samples if s.seconds > WARM_UP_FRACTION * seconds])


def _peak_rate(port: int, tenants: list[Tenant]) -> float:
    """Return the requests per second of clients that do not pause."""
    with loading(port, *_mixed_streams(tenants, 0)) as load:
        time.sleep(PEAK_SECONDS)
        return len(load.stop()) / PEAK_SECONDS


def _mixed_streams(tenants: list[Tenant], pause: float) -> list[Stream]:
    run = secrets.token_hex(4)

    def tenant(n: int) -> Tenant:
        return tenants[n % len(tenants)]

    return [
        Stream("read", lambda n: tenant(n).list(), 12, pause),
        Stream("write", lambda n: tenant(n).create(f"{run} {n}"), 2, pause),
        Stream(
            "keyed",
            lambda n: tenant(n).create(f"{run} keyed {n}", Idempotency_Key=f"{run}-{n}"),
            1,
            pause,
        ),
        Stream("reconnect", lambda n: tenant(n).list(), 1, pause, reconnect=True),
    ]


def _sample(service: Service, database: Postgres, seconds: float) -> Sample:
    return Sample(
        seconds,
        resident_bytes(service.pid),
        open_descriptors(service.pid),
        int(str(database.rows(CONNECTIONS)[0][0])),
    )


def _expect_no_growth(trial: Trial, samples: list[Sample]) -> None:
    memory_mb = [s.resident_bytes / 1e6 for s in samples]
    slope = _slope([s.seconds for s in samples], memory_mb) * 600
    trial.record(f"memory {memory_mb[-1]:.0f} MB, {slope:+.2f} MB per 10 min")
    # A short soak has too few samples for a reliable slope.
    growth = memory_mb[-1] - memory_mb[0]
    is_growing = slope > MAX_SLOPE_MB and growth > MAX_SLOPE_MB
    failure = f"memory grows by {slope:.1f} MB per 10 min; it grew by {growth:.1f} MB"
    trial.expect(not is_growing, failure)
    for what, values in (
        ("descriptors", [s.descriptors for s in samples]),
        ("database connections", [s.connections for s in samples]),
    ):
        half = len(values) // 2
        trial.record(f"{what} {min(values)} to {max(values)}")
        before, after = max(values[:half]), max(values[half:])
        trial.expect(after <= before + 2, f"{what} grow from {before} to {after}")


def _slope(times: list[float], values: list[float]) -> float:
    """Return the slope of the least-squares line."""
    mean_time, mean_value = sum(times) / len(times), sum(values) / len(values)
    covariance = sum((t - mean_time) * (v - mean_value) for t, v in zip(times, values, strict=True))
    return covariance / (sum((t - mean_time) ** 2 for t in times) or 1.0)


SCENARIOS = (
    Scenario(
        "soak",
        "half of the peak load: memory grows by less than 1 MB per 10 min, descriptors and "
        "connections do not",
        soak,
    ),
)
