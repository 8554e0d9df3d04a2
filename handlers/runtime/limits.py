"""How often an operation may be asked (`x-rate-limit`), per client address or per tenant."""

import time
from collections.abc import Awaitable, Callable
from typing import Any

import limits
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import MovingWindowRateLimiter

from handlers.runtime.problems import Problem
from handlers.runtime.proxies import household
from openapi.contract import Operation

Limit = Callable[[str, dict[str, Any] | None], Awaitable[None]]


class Limits:
    """Counts in memory: the limits hold for this process. `guest_limit` replaces the contract's."""

    def __init__(self, guest_limit: str | None) -> None:
        self._guest_limit = guest_limit
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    def of(self, operation: Operation) -> Limit | None:
        """Return the function that counts a request, None where there is no limit.

        It raises a `too-many-requests` problem whose Retry-After is in seconds.
        """
        declared = operation.extensions.get("x-rate-limit")
        if declared is None:
            return None
        item = limits.parse(f"{declared['limit']} per {declared['per']} second")
        if operation.id == "auth.guest" and self._guest_limit:
            if self._guest_limit == "off":
                return None
            item = limits.parse(self._guest_limit)
        by_client = declared["key"] == "client"

        async def count(client: str, principal: dict[str, Any] | None) -> None:
            key = household(client) if by_client or principal is None else principal["org_id"]
            if await self._limiter.hit(item, operation.id, key):
                return
            window = await self._limiter.get_window_stats(item, operation.id, key)
            wait = max(1, round(window.reset_time - time.time()))
            raise Problem(
                "too-many-requests",
                "Too many requests from this address" if by_client else "Too many requests",
                headers={"Retry-After": str(wait)},
            )

        return count
