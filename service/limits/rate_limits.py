"""Rate limits of operations (`x-rate-limit`), per client address or per tenant.

Header fields: draft-ietf-httpapi-ratelimit-headers-11 (May 2026). The name of a policy is the
operationId.
"""

import math
from collections.abc import Awaitable, Callable

from db.errors import Reason, Unavailable
from openapi.contract import Operation
from service.http.client_address import rate_limit_key
from service.http.problems import Problem
from service.http.responses import Headers
from service.identity.tokens import Principal
from service.limits.rate_counters import MemoryCounters, Rate, RateLimitResult
from service.limits.redis_counters import RedisCounters

MAX_RETRY_AFTER_SECONDS = 86_400  # as the contract declares it

Limit = Callable[[str, Principal | None, Headers], Awaitable[None]]


class RateLimits:
    """The limits of one service.

    `guest_limit`, if set, replaces the limit of `POST /auth/guest`; "off" removes it.
    """

    def __init__(
        self,
        service: str,
        redis: RedisCounters | None,
        guest_limit: Rate | str | None,
        *,
        enabled: bool,
    ) -> None:
        self._service = service
        self._redis = redis
        self._memory = MemoryCounters()
        self._guest_limit = guest_limit
        self._enabled = enabled

    def for_operation(self, operation: Operation) -> Limit | None:
        """Return the function that counts a request, or None when there is no limit.

        It adds the RateLimit fields to the headers. It raises a `too-many-requests` problem, and
        `Unavailable` while Redis is down and the limit declares `fail: closed`.
        """
        declared = operation.extensions.get("x-rate-limit")
        if declared is None or not self._enabled:
            return None
        rate = Rate(declared["limit"], declared["per"])
        if operation.id == "auth.guest" and self._guest_limit:
            if not isinstance(self._guest_limit, Rate):
                return None
            rate = self._guest_limit
        by_client = declared.get("key", "tenant" if operation.security else "client") == "client"
        fail_closed = declared.get("fail") == "closed"
        prefix = f"{self._service}:{operation.id}:{rate.per}:"
        policy = b'"%s";q=%d;w=%d' % (operation.id.encode(), rate.limit, rate.per)

        async def count(client: str, principal: Principal | None, headers: Headers) -> None:
            is_tenant = principal is not None and not by_client
            key = principal.org_id if is_tenant and principal else rate_limit_key(client)
            result = await self._hit(prefix + key, rate, fail_closed=fail_closed)
            reset = min(MAX_RETRY_AFTER_SECONDS, max(1, math.ceil(result.reset_seconds)))
            state = b'"%s";r=%d;t=%d' % (operation.id.encode(), result.remaining, reset)
            headers += [(b"ratelimit-policy", policy), (b"ratelimit", state)]
            if not result.allowed:
                raise Problem(
                    "too-many-requests",
                    "Too many requests from this address" if by_client else "Too many requests",
                    headers={"Retry-After": str(reset)},
                )

        return count

    async def _hit(self, key: str, rate: Rate, *, fail_closed: bool) -> RateLimitResult:
        if self._redis:
            if result := await self._redis.hit(key, rate):
                return result
            if fail_closed:
                detail = "Rate limiting is temporarily unavailable"
                raise Unavailable(Reason.UNCOUNTED, detail)
        return self._memory.hit(key, rate)
