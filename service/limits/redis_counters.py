"""Counts the requests of all replicas in Redis, with one round trip per request."""

import asyncio
from contextlib import suppress
from typing import Any

import structlog

from db.errors import first_line
from service.limits.rate_counters import SLICES, Rate, RateLimitResult

TIMEOUT_SECONDS = 0.2  # per call
RETRY_SECONDS = 1.0  # while Redis is down
STARTUP_ATTEMPTS = 5
PROBE_KEY = "covenant:looked"
MAX_CONNECTIONS = 16

# Uses the clock of Redis, because the clocks of the replicas may differ.
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


class RedisCounters:
    """The counters of all replicas. While Redis is down, only a background task calls it."""

    def __init__(self, url: str) -> None:
        # Imported only with a REDIS_URL: it costs 30 MB and half a second.
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
        self._errors = RedisError, OSError, TimeoutError
        self._retrying: asyncio.Task[None] | None = None
        self.is_down = True
        self._is_reported = False

    async def open(self) -> None:
        """Try to reach Redis, and keep trying in the background."""
        for _ in range(STARTUP_ATTEMPTS):  # a starting process is slow and may miss the timeout
            with suppress(*self._errors):
                await self._hit(PROBE_KEY, Rate(1, 1))
                break
            await asyncio.sleep(TIMEOUT_SECONDS)
        await self._probe()
        self._retrying = asyncio.create_task(self._retry())

    async def close(self) -> None:
        """Disconnect."""
        if self._retrying:
            self._retrying.cancel()
            with suppress(asyncio.CancelledError):
                await self._retrying
        with suppress(*self._errors):
            await self._redis.aclose()

    async def hit(self, key: str, rate: Rate) -> RateLimitResult | None:
        """Count a request of `key` if the rate allows it; return None while Redis is down."""
        if self.is_down:
            return None
        try:
            return await self._hit(key, rate)
        except self._errors as error:
            self._mark_down(error)
            return None

    async def _hit(self, key: str, rate: Rate) -> RateLimitResult:
        width_ms = rate.per * 1000 / SLICES
        async with asyncio.timeout(TIMEOUT_SECONDS):
            allowed, remaining, reset_ms = await self._script([key], [rate.limit, width_ms, SLICES])
        return RateLimitResult(bool(allowed), remaining, reset_ms / 1000)

    async def _retry(self) -> None:
        while True:
            await asyncio.sleep(RETRY_SECONDS)
            if self.is_down:
                await self._probe()

    async def _probe(self) -> None:
        try:
            await self._hit(PROBE_KEY, Rate(1, 1))
        except self._errors as error:
            self._mark_down(error)
        else:
            if self._is_reported:
                log.info("redis_ready")
            self.is_down = self._is_reported = False

    def _mark_down(self, error: Exception) -> None:
        """Log an outage once, not for each request."""
        if not self._is_reported:
            effect = "each process counts for itself, or rejects (x-rate-limit `fail: closed`)"
            log.warning("redis_unavailable", reason=first_line(error), effect=effect)
        self.is_down = self._is_reported = True
