"""What the service counts while it works: plain integers, put into words when they are asked for.

A request costs two additions here. No tenant, id or URL is part of any name, so that nothing a
client sends makes the tables grow.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping

from psycopg_pool import PoolClosed, PoolTimeout, TooManyRequests

from db.connections import monitor
from db.connections.fair_queue import SemaphoreFull
from db.connections.multiplexer import QueueFull
from db.connections.pipeline import ConnectionUnavailable, QueueTimeout
from db.errors import DiskFull, StatementTimeout, Unavailable
from openapi.contract import Operation
from service.http.problems import Problem
from service.identity.principals import MissingToken
from service.identity.tokens import InvalidToken

NO_OPERATION = "none"
OTHER_METHOD = "other"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# Seconds; the latency that an operation aims at (x-slo) is one more, so that it can be counted.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


# The reasons that errors give, by their names, and the word that operators read.
NO_ROOM = {
    error.__name__
    for error in (QueueFull, SemaphoreFull, QueueTimeout, PoolTimeout, TooManyRequests)
}
AWAY = {ConnectionUnavailable.__name__, PoolClosed.__name__, monitor.NOT_EXAMINED, monitor.AWAY}


class Metrics:
    """Counts of one process. Latencies: one count per bound, then those above, then their sum."""

    def __init__(self, operations: Mapping[str, Operation]) -> None:
        self.bounds = buckets(operations.values())
        # From zero on, so that the first of each is seen as a change.
        self.requests = {
            (operation.id, operation.method.upper(), int(code)): 0
            for operation in operations.values()
            for code in operation.responses
            if code.isdecimal()
        }
        self.seconds: dict[str, list[float]] = {
            id: [0] * (len(self.bounds) + 2) for id in (*operations, NO_OPERATION)
        }
        self.in_flight = 0
        self.late = 0.0
        self.token_failures: Counter[str] = Counter()
        self.unavailable: Counter[str] = Counter()

    def observe(self, operation: str | None, method: str, status: int, seconds: float) -> None:
        """Count the end of a request; None is a request that reached no operation."""
        name = operation or NO_OPERATION
        row = self.seconds[name]
        row[bisect_left(self.bounds, seconds)] += 1
        row[-1] += seconds
        key = (name, method, status)
        try:
            self.requests[key] += 1
        except KeyError:
            key = (name, method if method in METHODS else OTHER_METHOD, status)
            self.requests[key] = self.requests.get(key, 0) + 1

    def refused(self, error: Exception) -> None:
        """Count why a request was refused, where an operator wants to know more than the status."""
        if isinstance(error, InvalidToken):
            self.token_failures[error.reason] += 1
        elif isinstance(error, MissingToken):
            self.token_failures["missing"] += 1
        elif reason := unavailable_reason(error):
            self.unavailable[reason] += 1


def unavailable_reason(error: Exception) -> str | None:
    """Return one of few words for what an operator would do something else about each time.

    None when the answer is no 503.
    """
    if isinstance(error, Problem) and error.code == "unavailable":
        return "uncounted"
    if not isinstance(error, Unavailable):
        return None
    reason = str(error)
    if isinstance(error, StatementTimeout):
        return "too_slow"
    if isinstance(error, DiskFull):
        return "disk_full"
    if reason in NO_ROOM:
        return "no_room"
    if reason in AWAY or error.lost:
        return "database_away"
    # Reasons with a space are written for people, and may name anything; others name an error.
    return "not_ready" if " " in reason else reason


def buckets(operations: Iterable[Operation]) -> tuple[float, ...]:
    """Return the upper bounds of the latency buckets, in seconds."""
    aims = {
        operation.extensions["x-slo"]["latency_ms"] / 1000
        for operation in operations
        if "latency_ms" in operation.extensions.get("x-slo", {})
    }
    return tuple(sorted({*BUCKETS, *aims}))
