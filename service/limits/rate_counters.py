"""Counts requests in a sliding window, in the memory of this process.

A window of `per` seconds is counted in slices, so that the size of a counter does not depend on
the limit. A slice expires when all of it is `per` seconds old, so no window of `per` seconds ever
has more than `limit` requests.
"""

import math
import time
from dataclasses import dataclass
from typing import NamedTuple

SLICES = 60
MAX_KEYS = 100_000


@dataclass(frozen=True)
class Rate:
    """At most `limit` requests in `per` seconds."""

    limit: int
    per: int


class RateLimitResult(NamedTuple):
    """Whether a request is allowed, how many more are, and when (s) the oldest slice expires."""

    allowed: bool
    remaining: int
    reset_seconds: float


class MemoryCounters:
    """The counters of this process: those of the `MAX_KEYS` most recently used keys."""

    def __init__(self) -> None:
        self._counters: dict[str, dict[int, int]] = {}

    def hit(self, key: str, rate: Rate, now: float | None = None) -> RateLimitResult:
        """Count a request of `key` if the rate allows it; `now` is a monotonic time in seconds."""
        now = time.monotonic() if now is None else now
        width = rate.per / SLICES
        current = math.floor(now / width)
        counter = self._counters.pop(key, {})
        counts = {slice: n for slice, n in counter.items() if slice >= current - SLICES}
        total = sum(counts.values())
        if allowed := total < rate.limit:
            counts[current] = counts.get(current, 0) + 1
            total += 1
        self._counters[key] = counts  # the most recently used is last
        if len(self._counters) > MAX_KEYS:
            del self._counters[next(iter(self._counters))]
        reset_seconds = (next(iter(counts)) + 1 + SLICES) * width - now
        return RateLimitResult(allowed, rate.limit - total, reset_seconds)
