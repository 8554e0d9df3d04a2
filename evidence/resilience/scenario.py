"""Scenarios, their trials, and helpers to time and to describe what happens."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from evidence.harness.processes import find_program

POLL_INTERVAL_SECONDS = 0.01
# Tests share the processors with each other.
TEST_LIMIT_FACTOR = 4


class NotRun(Exception):
    """The scenario cannot run on this machine. The message is one line that says why."""


@dataclass
class Trial:
    """One run of a scenario, and what it measured.

    `is_short` selects the reduced version that the tests run. `minutes` is the length of a soak.
    """

    folder: Path
    is_short: bool = False
    minutes: float = 2.0
    measurements: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def record(self, measurement: str) -> None:
        """Add a measurement to the report."""
        self.measurements.append(measurement)

    def expect(self, condition: object, failure: str) -> None:
        """Add `failure` to the report unless `condition` is true."""
        if not condition:
            self.failures.append(failure)

    def expect_within(self, what: str, seconds: float, limit: float) -> None:
        """Record a duration, and fail when it exceeds `limit` seconds.

        A short trial has `TEST_LIMIT_FACTOR` times as long.
        """
        limit *= TEST_LIMIT_FACTOR if self.is_short else 1
        measurement = f"{what} {format_duration(seconds)}"
        self.record(measurement)
        self.expect(seconds <= limit, f"{measurement}, limit {format_duration(limit)}")


@dataclass(frozen=True)
class Scenario:
    """A fault, and what the service promises while it lasts.

    A scenario that takes longer than `timeout` seconds fails. The tests run those `in_tests`.
    """

    name: str
    promise: str
    run: Callable[[Trial], None]
    timeout: float = 120.0
    in_tests: bool = False


def format_duration(seconds: float) -> str:
    """Return `12 ms`, `1.24 s`, or `never` for infinity."""
    if seconds == float("inf"):
        return "never"
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


def seconds_until(condition: Callable[[], object], timeout: float = 20.0) -> float:
    """Return how many seconds pass until `condition` is true, infinity after `timeout`."""
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > timeout:
            return float("inf")
        time.sleep(POLL_INTERVAL_SECONDS)
    return time.monotonic() - started


def require_program(name: str, package: str = "") -> str:
    """Return the path of a program. Raises `NotRun` when it is not installed."""
    path = find_program(name)
    if path is None:
        raise NotRun(f"{name} is not installed (Debian: apt-get install {package or name})")
    return path
