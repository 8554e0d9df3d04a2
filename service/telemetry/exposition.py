"""`GET /metrics` on the admin port: the counters in Prometheus' text format."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from db.connections.database import Database
from openapi.contract import Contract
from service.http.request_middleware import CLIENT_CLOSED_REQUEST
from service.identity.keys import KeyRing
from service.limits.redis_counters import RedisCounters
from service.status import Status
from service.telemetry.metrics import NO_OPERATION, Metrics


@dataclass(frozen=True, eq=False)
class MetricsCollector(Collector):
    """All metrics of the service, read when they are scraped."""

    metrics: Metrics
    contract: Contract
    database: Database
    keys: KeyRing
    status: Status
    redis: RedisCounters | None

    def collect(self) -> Iterator[Metric]:
        """Yield every metric."""
        yield from self._service()
        yield from self._requests()
        yield from self._errors()
        yield from self._database()
        yield from self._keys()
        redis = GaugeMetricFamily(
            "covenant_redis_ready", "1 while Redis counts the requests of all replicas"
        )
        if self.redis:
            redis.add_metric([], not self.redis.is_down)
        yield redis

    def _service(self) -> Iterator[Metric]:
        build = GaugeMetricFamily(
            "covenant_build_info",
            "Always 1; the labels are the served version and the SHA-256 of the contract",
            labels=["version", "contract"],
        )
        build.add_metric([self.contract.version, self.contract.hash], 1)
        yield build
        yield _gauge("covenant_stopping", "1 after the first stop signal", self.status.stopping)
        lag = CounterMetricFamily(
            "covenant_loop_late_seconds", "Total delay of the event loop's ticks"
        )
        lag.add_metric([], self.metrics.loop_lag_seconds)
        yield lag

    def _requests(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "covenant_requests",
            "Responses by operationId; `none` for requests that matched no operation",
            labels=["operation", "method", "status"],
        )
        undeclared = CounterMetricFamily(
            "covenant_undeclared_answers",
            "Responses with a status that the contract does not declare",
            labels=["operation"],
        )
        undeclared_counts = dict.fromkeys(self.contract.operations, 0)
        for (operation, method, status), count in sorted(self.metrics.requests.items()):
            requests.add_metric([operation, method, str(status)], count)
            if operation != NO_OPERATION and status != CLIENT_CLOSED_REQUEST:
                is_declared = str(status) in self.contract.operations[operation].responses
                undeclared_counts[operation] += 0 if is_declared else count
        for operation, count in undeclared_counts.items():
            undeclared.add_metric([operation], count)
        yield requests
        yield undeclared
        yield self._latencies()
        yield _gauge(
            "covenant_requests_in_flight", "Requests without a response", self.metrics.in_flight
        )

    def _latencies(self) -> Metric:
        family = HistogramMetricFamily(
            "covenant_request_seconds",
            "Time from the end of a request's head to the start of its response",
            labels=["operation"],
        )
        bounds = [*map(str, self.metrics.buckets), "+Inf"]
        for operation, row in self.metrics.seconds.items():
            total, cumulative = 0.0, []
            for bound, count in zip(bounds, row[:-1], strict=True):
                total += count
                cumulative.append((bound, total))
            family.add_metric([operation], cumulative, sum_value=row[-1])
        return family

    def _errors(self) -> Iterator[Metric]:
        tokens = CounterMetricFamily(
            "covenant_token_failures", "Requests rejected because of their token", labels=["reason"]
        )
        unavailable = CounterMetricFamily(
            "covenant_unavailable", "Responses with status 503, by reason", labels=["reason"]
        )
        for family, counts in (
            (tokens, self.metrics.token_failures),
            (unavailable, self.metrics.unavailable),
        ):
            for reason, count in sorted(counts.items()):
                family.add_metric([reason], count)
            yield family

    def _database(self) -> Iterator[Metric]:
        yield _gauge(
            "covenant_database_ready",
            "1 while the database can serve requests",
            self.database.not_ready_reason is None,
        )
        families = [
            GaugeMetricFamily(f"covenant_database_{name}", text, labels=["kind"])
            for name, text in (
                ("connections", "Open connections for reads, for writes, for transactions"),
                ("in_flight", "Statements without a result; for transactions, connections in use"),
                ("waiting", "Requests that wait for a connection"),
            )
        ]
        for kind, stats in self.database.stats.items():
            counts = (stats.connections, stats.in_flight, stats.waiting)
            for family, count in zip(families, counts, strict=True):
                family.add_metric([kind], count)
        yield from families

    def _keys(self) -> Iterator[Metric]:
        yield _gauge("covenant_keys", "Signing keys that tokens are verified with", len(self.keys))
        yield _gauge(
            "covenant_keys_refused",
            "1 while the key directory is rejected and older keys are in use",
            self.keys.reload_error != "",
        )
        yield _gauge(
            "covenant_signing_key_age_seconds",
            "Time since the activation of the signing key",
            self.keys.signing_key_age(),
        )
        # The first load does not count as a change.
        changes = CounterMetricFamily("covenant_key_changes", "Changes of the set of keys")
        changes.add_metric([], self.keys.generation - 1)
        yield changes


def renderer(collector: MetricsCollector) -> Callable[[], bytes]:
    """Return a function that renders all metrics, those of the process and of Python included."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    ProcessCollector(registry=registry)
    GCCollector(registry=registry)
    return lambda: generate_latest(registry)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=float(value))
