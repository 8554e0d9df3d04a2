"""A service that must not serve exits at once, and logs one line."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from evidence.harness.postgres import Postgres, postgres
from evidence.harness.services import Service
from evidence.resilience.load import Request, send_once
from evidence.resilience.scenario import Scenario, Trial
from service.identity import keys

MAX_EXIT_SECONDS = 2.0
IN_TESTS = ("a short key", "an unforced policy")
# Lines that a start may log besides the reason of its exit.
OTHER_LINES = ('"event":"request"', '"event":"database_version_outdated"')


@dataclass(frozen=True)
class BadStart:
    """What is wrong with a start, the message that must be logged, and how to start."""

    name: str
    message: str
    database_url: str
    environment: dict[str, str]


def bad_starts(trial: Trial) -> None:
    """Start the service with one fault after another."""
    with postgres(trial.folder) as database:
        slowest, count = 0.0, 0
        for bad_start in _bad_starts(trial.folder, database):
            if not trial.is_short or bad_start.name in IN_TESTS:
                count += 1
                slowest = max(slowest, _start(trial, bad_start))
        trial.record(f"{count} faults, 0 requests served")
        trial.expect_within("exit after", slowest, MAX_EXIT_SECONDS)


def _start(trial: Trial, bad_start: BadStart) -> float:
    """Start, send requests until the process exits, and return after how many seconds it does."""
    what = bad_start.name
    service = Service(trial.folder, bad_start.database_url, environment=bad_start.environment)
    started, served = time.monotonic(), 0
    service.start(ready=False)
    while service.is_running and time.monotonic() - started < 10:
        served += send_once(service.port, Request("POST", "/auth/guest")).status == 201
    seconds, log = time.monotonic() - started, service.log_lines()
    service.stop()
    reasons = [line for line in log if not any(other in line for other in OTHER_LINES)]
    is_right = len(reasons) == 1 and bad_start.message in reasons[0]
    trial.expect(service.wait() == 1, f"{what}: exit {service.wait()}, expected 1")
    trial.expect(is_right, f"{what}: not one line with `{bad_start.message}`: {reasons}"[:400])
    trial.expect(not served, f"{what}: a request was served")
    return seconds


def _bad_starts(folder: Path, database: Postgres) -> Iterator[BadStart]:
    """Yield the bad starts. The last one needs a change of the database, undone afterwards."""
    url = database.app_url
    short_key, future_key = folder / "short", folder / "future"
    short_key.mkdir()
    (short_key / "20260101T000000Z").write_text("short")
    keys.create_key(future_key, time.time() + 3600)
    yield BadStart("a short key", "is too short", url, {"KEYS_DIR": str(short_key)})
    yield BadStart(
        "no active key", "becomes active in the future", url, {"KEYS_DIR": str(future_key)}
    )
    not_a_number = "DRAIN_SECONDS: must be a number"
    yield BadStart("an invalid setting", not_a_number, url, {"DRAIN_SECONDS": "soon"})
    yield BadStart(
        "an unknown setting", "DRAIN_SECOND: unknown setting", url, {"DRAIN_SECOND": "5"}
    )
    yield BadStart("a superuser", "is a superuser", database.superuser_url(), {})
    database.execute("alter table projects no force row level security")
    yield BadStart("an unforced policy", "is not forced", url, {})
    database.execute("alter table projects force row level security")


SCENARIOS = (
    Scenario(
        "refuse",
        "a bad key, setting, role or policy: exit 1 within 2 s, one line, 0 requests served",
        bad_starts,
        in_tests=True,
    ),
)
