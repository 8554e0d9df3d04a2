"""`make fuzz`: rounds of Schemathesis with seeds that follow each other, until enough cases ran."""

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

EXAMPLES = 100  # for each operation and phase of one round
SUCCESSES = 8  # of each operation in one round


def main() -> int:
    arguments = _arguments()
    loaded, deadline = contract.load(), time.monotonic() + arguments.minutes * 60
    cases, failed, seed = 0, 0, arguments.seed
    successes: Counter[str] = Counter()
    found: list[str] = []
    with tempfile.TemporaryDirectory() as folder, _service(Path(folder)) as service:
        while cases < arguments.cases and not found:
            left = max(1.0, deadline - time.monotonic())
            try:
                round_ = runner.run(
                    service,
                    loaded,
                    Path(folder) / f"seed-{seed}",
                    seed=seed,
                    examples=arguments.examples,
                    seconds=left,
                )
            except subprocess.TimeoutExpired:
                found.append(f"only {cases} cases in {arguments.minutes} minutes")
                break
            cases, failed = cases + round_.cases, failed + round_.failures
            successes.update({label: round_.successes(label) for label in round_.answers})
            found = runner.complaints(round_, loaded, arguments.successes)
            print(f"seed {seed}: {round_.cases} cases, {round_.failures} failures", flush=True)
            if found:
                print(round_.output)
            seed += 1
    for label, count in successes.items():
        print(f"{count:7} successes  {label}")
    print(*found, sep="\n")
    print(f"fuzz: {cases} cases, {failed} failures, seeds {arguments.seed} to {seed - 1}")
    return 1 if found else 0


@contextmanager
def _service(folder: Path) -> Iterator[Service]:
    with (
        any_server(folder) as url,
        new_database(url, "fuzz") as database,
        serving(
            folder, database.app_url, RATE_LIMITS="false", VALIDATE_RESPONSES="true"
        ) as service,
    ):
        yield service


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m evidence.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=20_000, help="how many at least")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000))
    parser.add_argument("--minutes", type=float, default=30, help="how long at most")
    parser.add_argument(
        "--examples", type=int, default=EXAMPLES, help="for each operation and phase"
    )
    parser.add_argument("--successes", type=int, default=SUCCESSES, help="of each operation")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
