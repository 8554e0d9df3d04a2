"""What must not serve does not start: one line, at once."""

import time
from collections.abc import Iterator
from pathlib import Path

from evidence.harness.postgres import Postgres, postgres
from evidence.harness.services import Service
from evidence.resilience.load import Request, once
from evidence.resilience.scenario import Scenario, Trial
from service.identity import keys

LIMIT = 2.0
OTHER_LINES = ('"event":"request"', "security floor")


def wrong(trial: Trial) -> None:
    """Start with one fault after the other."""
    with postgres(trial.folder) as database:
        slowest, count = 0.0, 0
        for what, expected, url, settings in _faults(trial.folder, database):
            if trial.short and what not in ("a short key", "no policy"):
                continue
            count += 1
            made = Service(trial.folder, url, environment=settings)
            began, answered = time.monotonic(), 0
            made.start(ready=False)
            while made.is_running and time.monotonic() - began < 10:
                answered += once(made.port, Request("POST", "/auth/guest")).status == 201
            took, said = time.monotonic() - began, made.log_lines()
            made.stop()
            slowest = max(slowest, took)
            trial.demand(made.wait() == 1, f"{what}: exit {made.wait()}")
            told = [line for line in said if not any(mark in line for mark in OTHER_LINES)]
            trial.demand(len(told) == 1 and expected in told[0], f"{what}: {said}"[:300])
            trial.demand(not answered, f"{what}: a request was served")
            if what == "no policy":
                database.execute("alter table projects force row level security")
        trial.note(f"{count} faults, 0 requests served")
        trial.within("exit after", slowest, LIMIT)


def _faults(folder: Path, database: Postgres) -> Iterator[tuple[str, str, str, dict[str, str]]]:
    """Yield what is wrong, what must be said of it, a database URL and settings."""
    url = database.app_url
    weak = folder / "weak"
    weak.mkdir()
    (weak / "20260101T000000Z").write_text("short")
    yield "a short key", "is too short", url, {"KEYS_DIR": str(weak)}
    future = folder / "future"
    keys.create_key(future, time.time() + 3600)
    yield "no key yet", "is in the future", url, {"KEYS_DIR": str(future)}
    yield "a setting", "DRAIN_SECONDS: is not a number", url, {"DRAIN_SECONDS": "soon"}
    yield "a near miss", "DRAIN_SECOND: unknown", url, {"DRAIN_SECOND": "5"}
    yield "a superuser", "is a superuser", database.superuser_url(), {}
    database.execute("alter table projects no force row level security")
    yield "no policy", "is not forced", url, {}


SCENARIOS = (
    Scenario(
        "refuse",
        "a bad key, setting, role or policy: exit 1 within 2 s, one line, 0 requests served",
        wrong,
        short=True,
    ),
)
