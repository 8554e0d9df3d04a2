"""Counters of one process: plain numbers, turned into Prometheus text only when scraped.

A request costs a few additions here. No tenant, id or URL is a label, so no client can make the
tables grow.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping

from db.errors import Unavailable
from openapi.contract import Operation
from service.identity.authentication import MissingToken
from service.identity.verification import InvalidToken

NO_OPERATION = "none"
OTHER_METHOD = "other"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# Upper bounds in seconds. Each latency objective (x-slo) adds one, so that the requests that meet
# it can be counted.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Metrics:
    """Counters. A row of `seconds` is the count per bucket, the count above all, and the sum."""

    def __init__(self, operations: Mapping[str, Operation]) -> None:
        self.buckets = buckets(operations.values())
        # Present from the start: PromQL's rate() does not count the first sample of a series.
        self.requests = {
            (operation.id, operation.method.upper(), int(code)): 0
            for operation in operations.values()
            for code in operation.responses
            if code.isdecimal()
        }
        self.seconds: dict[str, list[float]] = {
            id: [0] * (len(self.buckets) + 2) for id in (*operations, NO_OPERATION)
        }
        self.in_flight = 0
        self.loop_lag_seconds = 0.0
        self.token_failures: Counter[str] = Counter()
        self.unavailable: Counter[str] = Counter()

    def record_response(
        self, operation: str | None, method: str, status: int, seconds: float
    ) -> None:
        """Count a response; `operation` is None when the request reached none."""
        name = operation or NO_OPERATION
        row = self.seconds[name]
        row[bisect_left(self.buckets, seconds)] += 1
        row[-1] += seconds
        key = (name, method, status)
        try:
            self.requests[key] += 1
        except KeyError:
            key = (name, method if method in METHODS else OTHER_METHOD, status)
            self.requests[key] = self.requests.get(key, 0) + 1

    def record_error(self, error: Exception) -> None:
        """Count why a request failed, where operators need more than the status."""
        if isinstance(error, InvalidToken):
            self.token_failures[error.reason] += 1
        elif isinstance(error, MissingToken):
            self.token_failures["missing"] += 1
        elif isinstance(error, Unavailable):
            self.unavailable[error.label] += 1


def buckets(operations: Iterable[Operation]) -> tuple[float, ...]:
    """Return the upper bounds of the latency buckets, in seconds."""
    objectives = {
        operation.extensions["x-slo"]["latency_ms"] / 1000
        for operation in operations
        if "latency_ms" in operation.extensions.get("x-slo", {})
    }
    return tuple(sorted({*BUCKETS, *objectives}))
