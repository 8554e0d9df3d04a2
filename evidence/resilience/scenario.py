"""What a scenario is, what it finds, and the words for it."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from evidence.harness.processes import find_program


class NotRun(Exception):
    """This machine cannot play the scenario: one line that says what it lacks."""


@dataclass
class Trial:
    """One playing of a scenario: its folder, how long it may be, and what was found.

    `short` plays a part of it, for the tests; `minutes` is how long a soak takes.
    """

    folder: Path
    short: bool = False
    minutes: float = 2.0
    measured: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def note(self, figure: str) -> None:
        """Keep a figure for the table."""
        self.measured.append(figure)

    def demand(self, holds: bool, fault: str) -> None:
        """Keep `fault` when what was promised does not hold."""
        if not holds:
            self.faults.append(fault)

    def within(self, what: str, seconds: float, limit: float) -> None:
        """Note how long something took, and demand that it took no longer than `limit`.

        Tests run beside each other, and so get four times as long.
        """
        limit *= 4 if self.short else 1
        self.note(f"{what} {duration(seconds)}")
        self.demand(seconds <= limit, f"{what} {duration(seconds)}, promised {duration(limit)}")


@dataclass(frozen=True)
class Scenario:
    """`limit` is in seconds: what takes longer has failed. `short` ones run with the tests."""

    name: str
    promise: str
    play: Callable[[Trial], None]
    limit: float = 120.0
    short: bool = False


def duration(seconds: float) -> str:
    """Return `12 ms`, `1.24 s` or `never`."""
    if seconds == float("inf"):
        return "never"
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


def until(condition: Callable[[], bool], patience: float = 20.0) -> float:
    """Return how many seconds it took `condition` to come true, infinity when it did not."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > patience:
            return float("inf")
        time.sleep(0.01)
    return time.monotonic() - began


def require_program(name: str, package: str = "") -> str:
    """Return the path of a program. Raises `NotRun`."""
    found = find_program(name)
    if found is None:
        raise NotRun(f"{name} is not installed (Debian: apt-get install {package or name})")
    return found
