"""`make resilience`: run scenarios and write build/resilience.md and build/resilience.json."""

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from evidence.harness.processes import ROOT
from evidence.resilience import (
    clocks,
    database,
    disk,
    durability,
    hostile_clients,
    locks,
    migrations,
    overload,
    poolers,
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
from evidence.resilience.report import Row, Verdict
from evidence.resilience.scenario import NotRun, Scenario, Trial

MODULES = (
    rolling_restart,
    database,
    durability,
    locks,
    retries,
    hostile_clients,
    redis_outage,
    disk,
    migrations,
    restore,
    rotation,
    poolers,
    clocks,
    startup,
    overload,
    slow_readers,
    soak,
)
SCENARIOS = tuple(scenario for module in MODULES for scenario in module.SCENARIOS)
SOAK = "soak"
EXIT_FAILED, EXIT_USAGE = 1, 2


def main(arguments: list[str]) -> int:
    """Return 0 when every selected scenario passes, 1 otherwise, 2 for an unknown name."""
    options = _parse(arguments)
    if unknown := set(options.names) - {scenario.name for scenario in SCENARIOS}:
        print(f"unknown scenario: {', '.join(sorted(unknown))}", file=sys.stderr)
        return EXIT_USAGE
    # Exit through the finally blocks, which stop the processes of a scenario.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    load_before, started = os.getloadavg()[0], time.monotonic()
    rows = []
    for scenario in SCENARIOS:
        if not options.names or scenario.name in options.names:
            row = run_scenario(scenario, is_short=options.short, minutes=options.minutes)
            rows.append(row)
            _print(row)
    verdict = report.overall_verdict(rows, len(SCENARIOS))
    report.write(options.into, rows, report.run_facts(load_before, started), verdict)
    print(f"{verdict}: {len(rows)} of {len(SCENARIOS)} scenarios; {options.into}/resilience.md")
    return 0 if all(row.verdict is Verdict.PASS for row in rows) else EXIT_FAILED


def run_scenario(scenario: Scenario, *, is_short: bool = False, minutes: float = 2.0) -> Row:
    """Run one scenario in a temporary folder and within its timeout."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        trial = Trial(Path(name), is_short, minutes)
        verdict = Verdict.FAIL
        try:
            with _timeout(scenario.timeout + 60 * minutes * (scenario.name == SOAK)):
                scenario.run(trial)
            verdict = Verdict.FAIL if trial.failures else Verdict.PASS
        except NotRun as reason:
            verdict = Verdict.NOT_RUN
            trial.failures = [str(reason)]
        except Exception as error:
            trial.failures.append(f"{type(error).__name__}: {error}"[:400])
    return Row(
        scenario=scenario.name,
        promise=scenario.promise,
        measurements="; ".join(trial.measurements),
        verdict=verdict,
        failures=tuple(trial.failures),
        seconds=time.monotonic() - started,
    )


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m evidence.resilience",
        description="Run resilience scenarios; write resilience.md and resilience.json.",
    )
    names = ", ".join(scenario.name for scenario in SCENARIOS)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: all of {names}")
    parser.add_argument("--into", type=Path, default=ROOT / "build", help="folder of the reports")
    parser.add_argument("--minutes", type=float, default=2.0, help=f"length of `{SOAK}`")
    parser.add_argument("--short", action="store_true", help="run the reduced versions")
    return parser.parse_args(arguments)


def _print(row: Row) -> None:
    print(f"{row.verdict:>7}  {row.scenario} ({row.seconds:.0f} s): {row.measurements}")
    print("".join(f"         {failure}\n" for failure in row.failures), end="", flush=True)


@contextmanager
def _timeout(seconds: float) -> Iterator[None]:
    def on_alarm(_number: int, _frame: FrameType | None) -> None:
        raise TimeoutError(f"not finished after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, on_alarm)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
