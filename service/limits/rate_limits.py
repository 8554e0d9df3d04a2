"""How often an operation may be asked (`x-rate-limit`), per client address or per tenant.

RateLimit fields: draft-ietf-httpapi-ratelimit-headers-11 (May 2026); a limit is named by the
operation that it counts.
"""

import math
from collections.abc import Awaitable, Callable
from typing import Any

from openapi.contract import Operation
from service.http.client_address import rate_limit_key
from service.http.problems import RETRY_AFTER_SECONDS, Problem
from service.limits.rate_counters import MemoryCounters, Rate, RateLimitResult, RedisCounters

MAX_RETRY_AFTER_SECONDS = 86_400  # of Retry-After, as the contract has it

Fields = list[tuple[bytes, bytes]]
Limit = Callable[[str, dict[str, Any] | None, Fields], Awaitable[None]]


class RateLimits:
    """The limits of one service. `guest_limit` replaces the contract's; None: it does not."""

    def __init__(
        self,
        service: str,
        shared: RedisCounters | None,
        guest_limit: Rate | str | None,
        *,
        on: bool,
    ) -> None:
        self._service = service
        self._shared = shared
        self._memory = MemoryCounters()
        self._guest_limit = guest_limit
        self._on = on

    def of(self, operation: Operation) -> Limit | None:
        """Return the function that counts a request, None where there is no limit.

        It puts what is left into the fields of the answer. It raises a `too-many-requests`
        problem, or `unavailable` where the limit must not be passed uncounted.
        """
        declared = operation.extensions.get("x-rate-limit")
        if declared is None or not self._on:
            return None
        rate = Rate(declared["limit"], declared["per"])
        if operation.id == "auth.guest" and self._guest_limit:
            if not isinstance(self._guest_limit, Rate):
                return None
            rate = self._guest_limit
        by_client = declared.get("key", "tenant" if operation.security else "client") == "client"
        closed = declared.get("fail") == "closed"
        prefix = f"{self._service}:{operation.id}:{rate.per}:"
        policy = b'"%s";q=%d;w=%d' % (operation.id.encode(), rate.limit, rate.per)

        async def count(client: str, principal: dict[str, Any] | None, fields: Fields) -> None:
            who = rate_limit_key(client) if by_client or principal is None else principal["org_id"]
            taken = await self._taken(prefix + who, rate, closed=closed)
            wait = min(MAX_RETRY_AFTER_SECONDS, max(1, math.ceil(taken.wait)))
            left = b'"%s";r=%d;t=%d' % (operation.id.encode(), taken.left, wait)
            fields += [(b"ratelimit-policy", policy), (b"ratelimit", left)]
            if not taken.fits:
                raise Problem(
                    "too-many-requests",
                    "Too many requests from this address" if by_client else "Too many requests",
                    headers={"Retry-After": str(wait)},
                )

        return count

    async def _taken(self, key: str, rate: Rate, *, closed: bool) -> RateLimitResult:
        if self._shared:
            if taken := await self._shared.take(key, rate):
                return taken
            if closed:
                raise Problem(
                    "unavailable",
                    "Requests cannot be counted",
                    hint="Try again",
                    headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
                )
        return self._memory.take(key, rate)
