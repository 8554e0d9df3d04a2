"""Half the load that the service can bear, for long: what grows, and what must not."""

import secrets
import time
from dataclasses import dataclass

from evidence.harness.postgres import Postgres, postgres
from evidence.harness.services import Service, serving
from evidence.resilience.load import Stream, failed, loading, percentile, told
from evidence.resilience.process_stats import descriptors, resident_bytes
from evidence.resilience.scenario import Scenario, Trial, duration
from evidence.resilience.tenants import Tenant, tenant

# In the first part caches fill.
WARM = 0.25
SLOPE_MB = 1.0  # per ten minutes


@dataclass(frozen=True)
class Sample:
    at: float
    resident: int
    descriptors: int
    connections: int


def soak(trial: Trial) -> None:
    """Look at the process every second, and lay a line through what it holds."""
    seconds = 20.0 if trial.short else 60 * trial.minutes
    with (
        postgres(trial.folder) as database,
        serving(trial.folder, database.app_url) as service,
    ):
        acmes = [tenant(service.port, f"Acme {n}") for n in range(8)]
        peak = _peak(service.port, acmes)
        samples: list[Sample] = []
        pause = 16 / (peak / 2)
        with loading(service.port, *_mixed(acmes, pause)) as load:
            began = time.monotonic()
            while time.monotonic() - began < seconds:
                samples.append(_sample(service, database, time.monotonic() - began))
                time.sleep(1)
            replies = load.stop()
    rate = len(replies) / seconds
    trial.note(f"{seconds / 60:g} min at {rate:,.0f} of {peak:,.0f} a second")
    trial.note(f"{len(failed(replies))} failed, p99 {duration(percentile(replies, 0.99))}")
    trial.demand(not failed(replies), f"failed: {told(failed(replies))}")
    _flat(trial, [s for s in samples if s.at > WARM * seconds])


def _peak(port: int, acmes: list[Tenant]) -> float:
    """Return how many requests a second are answered when as many as can be are sent."""
    with loading(port, *_mixed(acmes, 0)) as load:
        time.sleep(4)
        return len(load.stop()) / 4


def _mixed(acmes: list[Tenant], pause: float) -> list[Stream]:
    run = secrets.token_hex(4)

    def one(n: int) -> Tenant:
        return acmes[n % len(acmes)]

    return [
        Stream("read", lambda n: one(n).list(), 12, pause),
        Stream("write", lambda n: one(n).create(f"{run} {n}"), 2, pause),
        Stream(
            "keyed",
            lambda n: one(n).create(f"{run} keyed {n}", Idempotency_Key=f"{run}-{n}"),
            1,
            pause,
        ),
        Stream("fresh", lambda n: one(n).list(), 1, pause, fresh=True),
    ]


def _sample(service: Service, database: Postgres, at: float) -> Sample:
    connected = "select count(*) from pg_stat_activity where usename = 'covenant_app'"
    return Sample(
        at,
        resident_bytes(service.pid),
        descriptors(service.pid),
        int(str(database.rows(connected)[0][0])),
    )


def _flat(trial: Trial, samples: list[Sample]) -> None:
    slope = _slope([s.at for s in samples], [s.resident / 1e6 for s in samples]) * 600
    end = samples[-1].resident / 1e6
    trial.note(f"memory {end:.0f} MB, {slope:+.2f} MB per 10 min")
    # A short one has too few samples for the slope of a long one.
    grown = (samples[-1].resident - samples[0].resident) / 1e6
    steep = slope > SLOPE_MB and grown > SLOPE_MB
    trial.demand(not steep, f"memory grows by {slope:.1f} MB per 10 min, by {grown:.1f} MB here")
    for what, values in (
        ("descriptors", [s.descriptors for s in samples]),
        ("database connections", [s.connections for s in samples]),
    ):
        half = len(values) // 2
        trial.note(f"{what} {min(values)} to {max(values)}")
        later, earlier = max(values[half:]), max(values[:half])
        trial.demand(later <= earlier + 2, f"{what} grow from {earlier} to {later}")


def _slope(at: list[float], values: list[float]) -> float:
    """Return the slope of the line of least squares."""
    mean_at, mean = sum(at) / len(at), sum(values) / len(values)
    above = sum((a - mean_at) * (v - mean) for a, v in zip(at, values, strict=True))
    return above / (sum((a - mean_at) ** 2 for a in at) or 1.0)


SCENARIOS = (
    Scenario(
        "soak",
        "half load: memory grows by less than 1 MB per 10 min, descriptors and connections flat",
        soak,
    ),
)
