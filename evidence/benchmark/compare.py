"""A/B comparison of two checkouts: the effect of a change on the request path.

Both checkouts serve the same database. Short runs alternate in pairs, so that a drift of the
machine affects both; the result is the median of the ratios within pairs, with a 95 % bootstrap
interval. The checkout that runs this command migrates the database, and must be the newer one.
"""

import argparse
import random
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from dev.local import embedded
from evidence.benchmark import load, systems
from evidence.benchmark.data import Data, create_data
from evidence.benchmark.load import TITLES, Workload
from evidence.benchmark.systems import System
from evidence.harness.process_stats import cpu_seconds
from evidence.harness.processes import HarnessError
from openapi import contract

WARM_UP_SECONDS = 1.0
RESAMPLES = 10_000


@dataclass(frozen=True)
class Measurement:
    """One run: requests per second, and the CPU time of the service per request."""

    rate: float
    cpu_microseconds: float


Pair = tuple[Measurement, Measurement]  # before and after


def main() -> int:
    """Print the comparison. Return 1 when a checkout does not start or a request fails."""
    options = _parse()
    load.require_wrk()
    try:
        with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
            folder = Path(temporary)
            server = stack.enter_context(embedded.running(folder / "postgresql"))
            data = create_data(server, folder, contract.load(), orgs=100, projects=100)
            pairs = measure(data, folder, options)
    except HarnessError as error:
        print(error, file=sys.stderr)
        return 1
    print(markdown(pairs, options.seconds))
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m evidence.benchmark.compare",
        description="Compare the speed of two checkouts, with their own .venv if they have one.",
    )
    parser.add_argument("--before", type=Path, required=True, help="checkout without the change")
    parser.add_argument("--after", type=Path, required=True, help="checkout with the change")
    parser.add_argument("--pairs", type=int, default=10, help="pairs per workload (default: 10)")
    parser.add_argument("--seconds", type=float, default=4, help="length of a run (default: 4)")
    parser.add_argument(
        "--workloads",
        type=Workload,
        nargs="+",
        metavar="NAME",
        help=f"by default all: {' '.join(Workload)}",
    )
    return parser.parse_args()


def measure(data: Data, folder: Path, options: argparse.Namespace) -> dict[Workload, list[Pair]]:
    """Run the pairs of each workload; every other pair starts with `after`.

    Both services start again for each pair: two processes of the same code differ by up to 10 %,
    and would keep that difference in every pair.
    """
    trees = {"before": options.before.resolve(), "after": options.after.resolve()}
    results: dict[Workload, list[Pair]] = {
        workload: [] for workload in options.workloads or Workload
    }
    for number in range(options.pairs):
        with ExitStack() as stack:
            started = [
                stack.enter_context(systems.service(data, folder, name, tree))
                for name, tree in trees.items()
            ]
            for workload, pairs in results.items():
                for system in started:
                    _run(system, workload, data, WARM_UP_SECONDS)
                ordered = started[::-1] if number % 2 else started
                runs = [_run(system, workload, data, options.seconds) for system in ordered]
                before, after = reversed(runs) if number % 2 else runs
                pairs.append((before, after))
        print(f"pair {number + 1} of {options.pairs}", file=sys.stderr)
    return results


def _run(system: System, workload: Workload, data: Data, seconds: float) -> Measurement:
    started = cpu_seconds(system.pid)
    run = load.wrk(system, workload, data.rotating_tokens, seconds)
    used = cpu_seconds(system.pid) - started
    if run.errors or not run.requests:
        raise HarnessError(f"{system.name}: {run.errors} of {run.requests} requests failed")
    return Measurement(run.per_second, used / run.requests * 1e6)


def markdown(results: dict[Workload, list[Pair]], seconds: float) -> str:
    """Return a table with the medians, and the ratios after / before with their intervals."""
    count = len(next(iter(results.values())))
    lines = [
        f"{count} alternating pairs of {seconds:g} s per workload. Ratios are after / before: the "
        "median of the pairs, with its 95 % bootstrap interval.",
        "",
        "| | requests/s before | after | ratio | CPU µs per request before | after | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    for workload, pairs in results.items():
        cells = [TITLES[workload]]
        cells += _cells([(before.rate, after.rate) for before, after in pairs])
        cells += _cells(
            [(before.cpu_microseconds, after.cpu_microseconds) for before, after in pairs]
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cells(pairs: list[tuple[float, float]]) -> list[str]:
    ratios = [after / before for before, after in pairs]
    low, high = bootstrap_interval(ratios)
    medians = (f"{median(values):,.0f}" for values in zip(*pairs, strict=True))
    return [*medians, f"{median(ratios):.3f} ({low:.3f} to {high:.3f})"]


def bootstrap_interval(values: list[float]) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of the median."""
    generator = random.Random(0)
    medians = sorted(median(generator.choices(values, k=len(values))) for _ in range(RESAMPLES))
    return medians[int(0.025 * RESAMPLES)], medians[int(0.975 * RESAMPLES) - 1]


if __name__ == "__main__":
    sys.exit(main())
