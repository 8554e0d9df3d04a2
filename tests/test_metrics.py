"""What the service counts, and what it tells of it."""

import pytest

from db.errors import Unavailable
from handlers.runtime.metrics import BOUNDS, METHODS, NONE, Metrics
from handlers.security import MissingToken
from handlers.tokens import InvalidToken
from openapi import contract


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(contract.load().operations)


def test_a_request_counts_once_and_its_time_in_one_bucket(metrics: Metrics) -> None:
    metrics.observe("orgs.get", "GET", 200, 0.001)
    metrics.observe("orgs.get", "GET", 200, 0.0011)
    metrics.observe("orgs.get", "GET", 404, 99)
    assert metrics.requests == {("orgs.get", "GET", 200): 2, ("orgs.get", "GET", 404): 1}
    row = metrics.seconds["orgs.get"]
    first = metrics.bounds.index(0.001)
    assert row[first : first + 2] == [1, 1]
    assert row[-2:] == [1, pytest.approx(99.0021)]
    assert sum(row[:-1]) == 3


def test_what_a_client_invents_makes_no_new_name(metrics: Metrics) -> None:
    for n in range(1000):
        metrics.observe(None, f"X{n}", 404, 0.001)
    for method in METHODS:
        metrics.observe(None, method, 405, 0.001)
    assert len(metrics.requests) == 1 + len(METHODS)
    assert metrics.requests[NONE, "other", 404] == 1000


def test_refusals_count_by_reason(metrics: Metrics) -> None:
    for error in (
        InvalidToken("expired"),
        MissingToken(),
        Unavailable("Busy"),
        Unavailable("the database is away"),
        ValueError("of no interest"),
    ):
        metrics.refused(error)
    assert metrics.token_failures == {"expired": 1, "missing": 1}
    assert metrics.unavailable == {"Busy": 1, "not ready": 1}


def test_every_latency_that_is_aimed_at_is_a_bound() -> None:
    operations = contract.load().operations
    aims = {
        operation.extensions.get("x-slo", {}).get("latency_ms", 5) / 1000
        for operation in operations.values()
    }
    assert aims | set(BOUNDS) == set(Metrics(operations).bounds)
