"""`make resilience`: play the scenarios and write build/resilience.{md,json}."""

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from evidence.harness.processes import ROOT
from evidence.resilience import (
    clocks,
    database,
    disk,
    hostile_clients,
    locks,
    migrations,
    overload,
    redis_outage,
    report,
    restore,
    retries,
    rolling_restart,
    rotation,
    slow_readers,
    soak,
    startup,
)
from evidence.resilience.report import Row
from evidence.resilience.scenario import NotRun, Scenario, Trial

THEMES = (
    rolling_restart,
    database,
    locks,
    retries,
    hostile_clients,
    redis_outage,
    disk,
    migrations,
    restore,
    rotation,
    clocks,
    startup,
    overload,
    slow_readers,
    soak,
)
ALL = tuple(scenario for theme in THEMES for scenario in theme.SCENARIOS)
BAD, WRONG = 1, 2


def main(arguments: list[str]) -> int:
    """Return 0 when every scenario was run and holds, 1 otherwise, 2 for an unknown name."""
    parser = argparse.ArgumentParser(prog="python -m evidence.resilience", description=__doc__)
    parser.add_argument("names", nargs="*", help="some of " + ", ".join(s.name for s in ALL))
    parser.add_argument("--into", type=Path, default=ROOT / "build")
    parser.add_argument("--minutes", type=float, default=2.0, help="of the soak")
    parser.add_argument("--short", action="store_true", help="as the tests play them")
    given = parser.parse_args(arguments)
    if unknown := set(given.names) - {scenario.name for scenario in ALL}:
        print(f"unknown: {', '.join(sorted(unknown))}", file=sys.stderr)
        return WRONG
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    load_before, started = os.getloadavg()[0], time.monotonic()
    rows = []
    for scenario in ALL:
        if not given.names or scenario.name in given.names:
            row = play(scenario, short=given.short, minutes=given.minutes)
            rows.append(row)
            print(f"{row.verdict:>7}  {row.scenario} ({row.seconds:.0f} s): {row.measured}")
            print("".join(f"         {fault}\n" for fault in row.faults), end="", flush=True)
    said = report.verdict(rows, len(ALL))
    report.write(given.into, rows, report.about(load_before, started), said)
    print(f"{said}: {len(rows)} of {len(ALL)} scenarios; {given.into}/resilience.md")
    return 0 if all(row.verdict == "pass" for row in rows) else BAD


def play(scenario: Scenario, *, short: bool = False, minutes: float = 2.0) -> Row:
    """Play one scenario in a folder of its own, within its limit."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        trial = Trial(Path(name), short, minutes)
        verdict = "fail"
        try:
            with _limited(scenario.limit + 60 * minutes * (scenario.name == "soak")):
                scenario.play(trial)
            verdict = "fail" if trial.faults else "pass"
        except NotRun as reason:
            verdict = "not run"
            trial.faults = [str(reason)]
        except Exception as error:
            trial.faults.append(f"{type(error).__name__}: {error}"[:400])
    seconds = time.monotonic() - began
    measured, faults = "; ".join(trial.measured), tuple(trial.faults)
    return Row(scenario.name, scenario.promise, measured, verdict, faults, seconds)


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    def over(number: int, frame: Any) -> None:
        raise TimeoutError(f"not over within {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
