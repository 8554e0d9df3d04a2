"""How many requests were made in the last seconds: counted by this process, or in Redis for all.

A window of `per` seconds is counted in slices, so that a count stays small whatever the limit. A
slice leaves when all of it is `per` seconds old: never are there more than `limit` in any window.
"""

import asyncio
import math
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import structlog

from db.errors import first_line

SLICES = 60
MAX_KEYS = 100_000
# Seconds for one answer of Redis; then it is away, and asked again so often.
TIMEOUT_SECONDS, RETRY_SECONDS = 0.2, 1.0
STARTUP_ATTEMPTS = 5  # looks before Redis is called away for the first time
PROBE_KEY = "covenant:looked"
MAX_CONNECTIONS = 16

# One round trip, by the clock of Redis: those of the replicas may differ.
SCRIPT = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local limit, width, slices = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local current = math.floor(now / width)
local total, first, fits = 0, current, 0
local counts = redis.call('HGETALL', KEYS[1])
for i = 1, #counts, 2 do
  local slice = tonumber(counts[i])
  if slice < current - slices then
    redis.call('HDEL', KEYS[1], counts[i])
  else
    total = total + tonumber(counts[i + 1])
    first = math.min(first, slice)
  end
end
if total < limit then
  redis.call('HINCRBY', KEYS[1], string.format('%.0f', current), 1)
  redis.call('PEXPIRE', KEYS[1], math.ceil(width * (slices + 1)))
  total, fits = total + 1, 1
end
return {fits, limit - total, math.ceil((first + 1 + slices) * width - now)}
"""

log = structlog.get_logger("covenant.limits")


@dataclass(frozen=True)
class Rate:
    """At most `limit` requests in `per` seconds."""

    limit: int
    per: int


class RateLimitResult(NamedTuple):
    """Whether one more request fits, how many would after it, and when the oldest leave (s)."""

    fits: bool
    left: int
    wait: float


class MemoryCounters:
    """The counts of this process; of too many keys those not asked for longest are forgotten."""

    def __init__(self) -> None:
        self._counts: dict[str, dict[int, int]] = {}

    def take(self, key: str, rate: Rate, now: float | None = None) -> RateLimitResult:
        now = time.monotonic() if now is None else now
        width = rate.per / SLICES
        current = math.floor(now / width)
        kept = self._counts.pop(key, {})
        counts = {slice: n for slice, n in kept.items() if slice >= current - SLICES}
        total = sum(counts.values())
        if fits := total < rate.limit:
            counts[current] = counts.get(current, 0) + 1
            total += 1
        self._counts[key] = counts  # behind all others
        if len(self._counts) > MAX_KEYS:
            del self._counts[next(iter(self._counts))]
        return RateLimitResult(
            fits, rate.limit - total, (next(iter(counts)) + 1 + SLICES) * width - now
        )


class RedisCounters:
    """The counts of all replicas. While Redis is away it is not asked, but by a watch."""

    def __init__(self, url: str) -> None:
        # Not imported by a service without Redis: it takes 30 MB and half a second.
        from redis.asyncio import BlockingConnectionPool, Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
        from redis.exceptions import RedisError

        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=MAX_CONNECTIONS,
            timeout=TIMEOUT_SECONDS,
            socket_timeout=TIMEOUT_SECONDS,
            socket_connect_timeout=TIMEOUT_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )
        self._redis: Any = Redis.from_pool(pool)
        self._script = self._redis.register_script(SCRIPT)
        self._faults = RedisError, OSError, TimeoutError
        self._watcher: asyncio.Task[None] | None = None
        self.away = True
        self._said = False

    async def open(self) -> None:
        for _ in range(STARTUP_ATTEMPTS):  # a process that starts is slow itself
            with suppress(*self._faults):
                await self._take(PROBE_KEY, Rate(1, 1))
                break
            await asyncio.sleep(TIMEOUT_SECONDS)
        await self._look()
        self._watcher = asyncio.create_task(self._watch())

    async def close(self) -> None:
        if self._watcher:
            self._watcher.cancel()
            with suppress(asyncio.CancelledError):
                await self._watcher
        with suppress(*self._faults):
            await self._redis.aclose()

    async def take(self, key: str, rate: Rate) -> RateLimitResult | None:
        """Count one request; None while Redis is away."""
        if self.away:
            return None
        try:
            return await self._take(key, rate)
        except self._faults as error:
            self._say(error)
            return None

    async def _take(self, key: str, rate: Rate) -> RateLimitResult:
        width_ms = rate.per * 1000 / SLICES
        async with asyncio.timeout(TIMEOUT_SECONDS):
            fits, left, wait_ms = await self._script([key], [rate.limit, width_ms, SLICES])
        return RateLimitResult(bool(fits), left, wait_ms / 1000)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(RETRY_SECONDS)
            if self.away:
                await self._look()

    async def _look(self) -> None:
        try:
            await self._take(PROBE_KEY, Rate(1, 1))
        except self._faults as error:
            self._say(error)
        else:
            if self._said:
                log.info("Redis is back: all replicas count together")
            self.away = self._said = False

    def _say(self, error: Exception) -> None:
        """Log a change once, not for every request."""
        if not self._said:
            log.warning(f"Redis is away ({first_line(error)}): each process counts for itself")
        self.away = self._said = True
