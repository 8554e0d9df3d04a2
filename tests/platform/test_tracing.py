"""Traces: the spans that a collector receives, and what happens while there is none."""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from evidence.harness.processes import ROOT, free_port
from service import settings
from service.identity import keys
from tests.platform.fix_logs import count_events, wait_for_event
from tests.platform.fix_postgres import Database
from tests.platform.fix_service import Service, serving, tenant, until

TRACE_ID, PARENT_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
EXPORT_SOON = {"OTEL_BSP_SCHEDULE_DELAY": "100"}


@dataclass
class Collector:
    """An OTLP/HTTP collector that keeps the requests it receives."""

    url: str
    requests: list[ExportTraceServiceRequest] = field(default_factory=list)

    def spans(self) -> list[Span]:
        return [
            span
            for request in tuple(self.requests)
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans() if span.name == name]

    def children(self, parent: Span) -> list[Span]:
        return [span for span in self.spans() if span.parent_span_id == parent.span_id]

    def resource(self) -> dict[str, str]:
        """Return the attributes of the resource that sent the first request."""
        attributes = self.requests[0].resource_spans[0].resource.attributes
        return {item.key: item.value.string_value for item in attributes}


def attributes(span: Span) -> dict[str, Any]:
    return {
        item.key: getattr(item.value, str(item.value.WhichOneof("value")))
        for item in span.attributes
    }


@contextmanager
def collecting(port: int = 0) -> Iterator[Collector]:
    """Run a collector, by default on any free port, until the end of the block."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.path == "/v1/traces"
            collector.requests.append(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    collector = Collector(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as started:
        yield started


@pytest.fixture(scope="module")
def traced(
    tmp_path_factory: pytest.TempPathFactory, database: Database, collector: Collector
) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("traced")
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
    with serving(folder, database.app_url, **endpoint, **EXPORT_SOON) as service:
        yield service


def test_an_operation_is_a_span_and_its_statement_a_child_span(
    traced: Service, collector: Collector
) -> None:
    with tenant(traced, "Traced") as acme:
        project = acme.project("canary")["id"]
        headers = {"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-01", "tracestate": "vendor=canary"}
        acme.http.get(f"/orgs/{acme.org}/projects/{project}", headers=headers)
        [span] = until(lambda: collector.named("projects.get"))
        assert span.trace_id.hex() == TRACE_ID
        assert span.parent_span_id.hex() == PARENT_ID
        assert span.kind == Span.SPAN_KIND_SERVER
        assert attributes(span) == {
            "http.request.method": "GET",
            "http.route": "/orgs/{org_id}/projects/{project_id}",
            "http.response.status_code": 200,
            "url.scheme": "http",
        }
        [statement] = until(lambda: collector.children(span))
        assert statement.name == "SELECT"
        assert statement.kind == Span.SPAN_KIND_CLIENT
        details = attributes(statement)
        assert details["db.system.name"] == "postgresql"
        assert "projects" in details["db.query.text"]
        assert "$1" in details["db.query.text"]
        assert span.start_time_unix_nano <= statement.start_time_unix_nano
        assert statement.end_time_unix_nano <= span.end_time_unix_nano
        line = wait_for_event(traced, "request", operation="projects.get")
        assert line["trace_id"] == TRACE_ID
        assert collector.resource()["service.name"] == "covenant"
        exported = str(collector.requests)
        for secret in (acme.org, acme.subject, acme.token, project, "canary"):
            assert secret not in exported


def test_each_statement_of_a_transaction_is_a_child_span(
    traced: Service, collector: Collector
) -> None:
    with tenant(traced, "Created"):
        span = until(lambda: collector.named("orgs.create"))[-1]
    statements = until(lambda: collector.children(span))
    assert len(statements) >= 2
    assert all(attributes(s)["db.system.name"] == "postgresql" for s in statements)


def test_a_request_without_a_valid_traceparent_starts_a_trace(
    traced: Service, collector: Collector
) -> None:
    with traced.http() as client:
        assert client.get("/health", headers={"traceparent": "nonsense"}).status_code == 200
    span = until(lambda: collector.named("system.health"))[-1]
    assert not span.parent_span_id
    trace_id = span.trace_id.hex()
    assert wait_for_event(traced, "request", operation="system.health", trace_id=trace_id)


def test_the_span_of_a_rejected_request_has_its_status_and_no_text(
    traced: Service, collector: Collector
) -> None:
    with traced.http() as client:
        assert client.get("/auth/me").status_code == 401
        assert client.get("/nowhere/canary").status_code == 404
    span = until(lambda: collector.named("auth.me"))[-1]
    assert attributes(span)["http.response.status_code"] == 401
    assert span.status.code == 0
    assert not span.events
    assert "canary" not in str(collector.requests)


def test_the_span_of_a_failed_statement_has_its_sqlstate_and_no_row(
    traced: Service, collector: Collector
) -> None:
    with tenant(traced, "Duplicate") as acme:
        acme.project("canary-name")
        duplicate = acme.http.post(f"/orgs/{acme.org}/projects", json={"name": "canary-name"})
        assert duplicate.status_code == 409

    def failed() -> list[Span]:
        return [s for s in collector.spans() if attributes(s).get("error.type") == "23505"]

    [statement] = until(failed)
    assert statement.status.code == 2
    assert "canary" not in str(collector.requests)


def test_an_outage_of_the_collector_is_logged_once_and_delays_nothing(
    tmp_path: Path, database: Database
) -> None:
    port = free_port()
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}"}
    export = {**EXPORT_SOON, "OTEL_EXPORTER_OTLP_TIMEOUT": "1"}
    with (
        serving(tmp_path, database.app_url, **endpoint, **export) as service,
        service.http() as client,
    ):

        def is_logged_after_a_request(event: str) -> bool:
            assert client.get("/health").elapsed.total_seconds() < 1
            return count_events(service, event) == 1

        until(lambda: is_logged_after_a_request("traces_not_sent"))
        with collecting(port) as collector:
            until(lambda: is_logged_after_a_request("traces_sent_again"))
            until(
                lambda: (
                    is_logged_after_a_request("traces_sent_again") and len(collector.requests) > 3
                )
            )
        started = time.monotonic()
        assert service.terminate() == 0
        assert time.monotonic() - started < 5
        assert count_events(service, "traces_sent_again") == 1
        assert "Traceback" not in service.log_text()


def test_a_collector_that_does_not_respond_does_not_delay_the_exit(
    tmp_path: Path, database: Database
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with serving(
            tmp_path, database.app_url, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, **EXPORT_SOON
        ) as service:
            with service.http() as client:
                assert client.get("/health").status_code == 200
            with silent.accept()[0]:
                started = time.monotonic()
                assert service.terminate() == 0
                assert time.monotonic() - started < 5


def test_the_last_spans_are_sent_before_the_service_exits(
    tmp_path: Path, database: Database
) -> None:
    with collecting() as collector:
        endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
        with serving(tmp_path, database.app_url, **endpoint) as service:
            with service.http() as client:
                client.get("/")
            assert service.terminate() == 0
        assert collector.named("system.index")


def test_opentelemetry_is_not_imported_when_tracing_is_off(tmp_path: Path) -> None:
    keys.create_key(tmp_path / "keys", time.time())
    program = (
        "import sys; from service import serve; serve.assemble();"
        "print([m for m in sys.modules if m.startswith(('opentelemetry', 'google'))])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={
            "PATH": "",
            "DATABASE_URL": "postgresql://covenant_app@127.0.0.1:1/covenant",
            "KEYS_DIR": str(tmp_path / "keys"),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"


def test_other_settings_of_opentelemetry_are_not_misspelled_settings() -> None:
    good = {"DATABASE_URL": "postgresql://a@b/c", "KEYS_DIR": "/keys"}
    for name in ("TRACES_ENDPOINT", "METRICS_ENDPOINT", "HEADERS", "TIMEOUT", "PROTOCOL"):
        assert settings.load({**good, f"OTEL_EXPORTER_OTLP_{name}": "x"}).port == 8080
