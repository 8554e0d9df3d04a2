"""The counts in words: what `GET /metrics` on the admin port answers (Prometheus text format)."""

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
from service.identity.keys import KeyRing
from service.limits.rate_counters import RedisCounters
from service.status import Status
from service.telemetry.metrics import NO_OPERATION, Metrics

CLIENT_CLOSED_REQUEST = 499  # the client; not an answer


@dataclass(frozen=True, eq=False)
class MetricsCollector(Collector):
    """Everything that is told, read when it is asked for."""

    metrics: Metrics
    contract: Contract
    database: Database
    keys: KeyRing
    status: Status
    shared: RedisCounters | None

    def collect(self) -> Iterator[Metric]:
        yield from self._service()
        yield from self._requests()
        yield from self._refusals()
        yield from self._database()
        yield from self._keys()
        redis = GaugeMetricFamily(
            "covenant_redis_ready", "1 while Redis counts the requests of all replicas"
        )
        if self.shared:
            redis.add_metric([], not self.shared.away)
        yield redis

    def _service(self) -> Iterator[Metric]:
        build = GaugeMetricFamily(
            "covenant_build_info",
            "The version and the contract (SHA-256) that are served; always 1",
            labels=["version", "contract"],
        )
        build.add_metric([self.contract.version, self.contract.hash], 1)
        yield build
        yield _gauge("covenant_stopping", "1 from the first signal on", self.status.stopping)
        late = CounterMetricFamily(
            "covenant_loop_late_seconds", "By how much the event loop came late to its ticks"
        )
        late.add_metric([], self.metrics.late)
        yield late

    def _requests(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "covenant_requests",
            "Requests answered, by operationId; `none` reached no operation",
            labels=["operation", "method", "status"],
        )
        undeclared = CounterMetricFamily(
            "covenant_undeclared_answers",
            "Answers with a status that the contract does not declare",
            labels=["operation"],
        )
        unknown = dict.fromkeys(self.contract.operations, 0)
        for (operation, method, status), count in sorted(self.metrics.requests.items()):
            requests.add_metric([operation, method, str(status)], count)
            if operation != NO_OPERATION and status != CLIENT_CLOSED_REQUEST:
                declared = self.contract.operations[operation].responses
                unknown[operation] += 0 if str(status) in declared else count
        for operation, count in unknown.items():
            undeclared.add_metric([operation], count)
        yield requests
        yield undeclared
        yield self._latencies()
        yield _gauge(
            "covenant_requests_in_flight", "Requests not answered yet", self.metrics.in_flight
        )

    def _latencies(self) -> Metric:
        family = HistogramMetricFamily(
            "covenant_request_seconds",
            "From the end of a request's head to the start of its answer",
            labels=["operation"],
        )
        limits = [*map(str, self.metrics.bounds), "+Inf"]
        for operation, row in self.metrics.seconds.items():
            total, buckets = 0.0, []
            for limit, count in zip(limits, row[:-1], strict=True):
                total += count
                buckets.append((limit, total))
            family.add_metric([operation], buckets, sum_value=row[-1])
        return family

    def _refusals(self) -> Iterator[Metric]:
        tokens = CounterMetricFamily(
            "covenant_token_failures", "Requests refused for their token", labels=["reason"]
        )
        unavailable = CounterMetricFamily(
            "covenant_unavailable", "Requests answered 503, by why", labels=["reason"]
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
            "1 while requests can be served from the database",
            self.database.reason is None,
        )
        families = [
            GaugeMetricFamily(f"covenant_database_{name}", text, labels=["kind"])
            for name, text in (
                ("connections", "Open connections: for reads, for writes, for transactions"),
                ("in_flight", "Statements sent and not answered, or connections in use"),
                ("waiting", "Requests that wait for room on a connection"),
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
            "1 while the key directory is refused and older keys serve",
            self.keys.complaint != "",
        )
        yield _gauge(
            "covenant_signing_key_age_seconds",
            "Since the activation of the key that signs",
            self.keys.age(),
        )
        # The first load is not a change.
        changes = CounterMetricFamily("covenant_key_changes", "Changes of the set of keys")
        changes.add_metric([], self.keys.generation - 1)
        yield changes


def renderer(exposition: MetricsCollector) -> Callable[[], bytes]:
    """Return what renders everything, the process and its garbage collector included."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(exposition)
    ProcessCollector(registry=registry)
    GCCollector(registry=registry)
    return lambda: generate_latest(registry)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=float(value))
