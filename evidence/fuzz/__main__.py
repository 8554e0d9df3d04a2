"""`make fuzz`: rounds of Schemathesis with consecutive seeds, until enough cases ran."""

import argparse
import secrets
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from evidence.fuzz import runner
from evidence.harness.postgres import any_server, new_database
from evidence.harness.services import Service, serving
from openapi import contract

CASES, MINUTES = 20_000, 30
EXAMPLES = 100  # per operation and phase of one round
SUCCESSES = 8  # per operation in one round


def main() -> int:
    """Return 0 when enough cases ran without a failure, else 1."""
    options = _parse()
    loaded, deadline = contract.load(), time.monotonic() + options.minutes * 60
    cases, failed, seed = 0, 0, options.seed
    successes: Counter[str] = Counter()
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as folder, _service(Path(folder)) as service:
        while cases < options.cases and not failures:
            try:
                run = runner.run(
                    service,
                    loaded,
                    Path(folder) / f"seed-{seed}",
                    seed=seed,
                    examples=options.examples,
                    timeout=max(1.0, deadline - time.monotonic()),
                )
            except subprocess.TimeoutExpired:
                failures.append(f"only {cases} cases in {options.minutes:g} minutes")
                break
            cases, failed = cases + run.cases, failed + run.failed_cases
            successes.update({label: run.successes(label) for label in run.statuses})
            failures = runner.all_failures(run, loaded, options.successes)
            print(f"seed {seed}: {run.cases} cases, {run.failed_cases} failed", flush=True)
            if failures:
                print(run.output)
            seed += 1
    for label, count in successes.items():
        print(f"{count:7} successes  {label}")
    for failure in failures:
        print(failure)
    print(f"fuzz: {cases} cases, {failed} failed, seeds {options.seed} to {seed - 1}")
    return 1 if failures else 0


@contextmanager
def _service(folder: Path) -> Iterator[Service]:
    """Run a service on a new database, without rate limits, that validates its responses."""
    with (
        any_server(folder) as url,
        new_database(url, "fuzz") as database,
        serving(
            folder, database.app_url, RATE_LIMITS="false", VALIDATE_RESPONSES="true"
        ) as service,
    ):
        yield service


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m evidence.fuzz",
        description="Fuzz the running service with Schemathesis; exit 1 for any failure.",
    )
    parser.add_argument("--cases", type=int, default=CASES, help=f"minimum (default: {CASES})")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000))
    parser.add_argument(
        "--minutes", type=float, default=MINUTES, help=f"time limit (default: {MINUTES})"
    )
    parser.add_argument(
        "--examples",
        type=int,
        default=EXAMPLES,
        help=f"maximum per operation and phase of a round (default: {EXAMPLES})",
    )
    parser.add_argument(
        "--successes",
        type=int,
        default=SUCCESSES,
        help=f"2xx responses that each operation must have in a round (default: {SUCCESSES})",
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
