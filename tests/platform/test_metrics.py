"""The counters of one process, before they are exposed."""

import pytest
from psycopg import errors

from db.errors import DiskFull, Reason, StatementTimeout, Unavailable, unavailable_connection
from openapi import contract
from service.identity.authentication import MissingToken
from service.identity.verification import InvalidToken
from service.telemetry.metrics import BUCKETS, METHODS, NO_OPERATION, Metrics


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(contract.load().operations)


def test_a_response_is_counted_once_and_its_duration_in_one_bucket(metrics: Metrics) -> None:
    metrics.record_response("orgs.get", "GET", 200, 0.001)
    metrics.record_response("orgs.get", "GET", 200, 0.0011)
    metrics.record_response("orgs.get", "GET", 404, 99)
    counts = {key: count for key, count in metrics.requests.items() if count}
    assert counts == {("orgs.get", "GET", 200): 2, ("orgs.get", "GET", 404): 1}
    row = metrics.seconds["orgs.get"]
    first = metrics.buckets.index(0.001)
    assert row[first : first + 2] == [1, 1]
    assert row[-2:] == [1, pytest.approx(99.0021)]
    assert sum(row[:-1]) == 3


def test_every_declared_status_starts_at_zero(metrics: Metrics) -> None:
    """Otherwise a rate would not see the first error, and no alert would fire."""
    assert metrics.requests["orgs.get", "GET", 500] == 0
    assert metrics.requests["orgs.create", "POST", 201] == 0


def test_unknown_methods_share_one_label(metrics: Metrics) -> None:
    before = len(metrics.requests)
    for n in range(1000):
        metrics.record_response(None, f"X{n}", 404, 0.001)
    for method in METHODS:
        metrics.record_response(None, method, 405, 0.001)
    assert len(metrics.requests) == before + 1 + len(METHODS)
    assert metrics.requests[NO_OPERATION, "other", 404] == 1000


def test_rejected_tokens_are_counted_by_reason(metrics: Metrics) -> None:
    for error in (InvalidToken("expired"), InvalidToken("expired"), MissingToken()):
        metrics.record_error(error)
    assert metrics.token_failures == {"expired": 2, "missing": 1}
    assert not metrics.unavailable


@pytest.mark.parametrize(
    ("error", "label"),
    [
        (Unavailable(Reason.NO_ROOM), "no_room"),
        (Unavailable(Reason.DATABASE_AWAY), "database_away"),
        (unavailable_connection(errors.OperationalError()), "database_away"),
        (Unavailable(Reason.NOT_READY, "migrations are behind (none of 0004)"), "not_ready"),
        (Unavailable(Reason.UNCOUNTED), "uncounted"),
        (
            Unavailable(Reason.POSTGRES_ERROR, postgres_error="LockNotAvailable"),
            "LockNotAvailable",
        ),
        (StatementTimeout(), "too_slow"),
        (DiskFull(), "disk_full"),
    ],
    ids=str,
)
def test_a_503_is_counted_by_its_reason(metrics: Metrics, error: Unavailable, label: str) -> None:
    metrics.record_error(error)
    assert metrics.unavailable == {label: 1}


def test_other_errors_are_not_counted_by_reason(metrics: Metrics) -> None:
    metrics.record_error(ValueError())
    assert not metrics.unavailable
    assert not metrics.token_failures


def test_every_latency_objective_is_a_bucket_bound() -> None:
    operations = contract.load().operations
    objectives = {
        operation.extensions["x-slo"]["latency_ms"] / 1000
        for operation in operations.values()
        if "latency_ms" in operation.extensions.get("x-slo", {})
    }
    assert objectives
    assert objectives | set(BUCKETS) == set(Metrics(operations).buckets)
