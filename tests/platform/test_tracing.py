"""Traces: what arrives at a collector, and what happens when there is none."""

import json
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
from tests.platform.fix_postgres import Database
from tests.platform.fix_service import Service, serving, tenant, until

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SOON = {"OTEL_BSP_SCHEDULE_DELAY": "100"}


@dataclass
class Collector:
    """An OTLP/HTTP collector that keeps what it is sent."""

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


def attributes(span: Span) -> dict[str, Any]:
    return {
        item.key: getattr(item.value, str(item.value.WhichOneof("value")))
        for item in span.attributes
    }


@contextmanager
def collecting(port: int = 0) -> Iterator[Collector]:
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
    with collecting() as running:
        yield running


@pytest.fixture(scope="module")
def traced(
    tmp_path_factory: pytest.TempPathFactory, database: Database, collector: Collector
) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("traced")
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
    with serving(folder, database.app_url, **endpoint, **SOON) as service:
        yield service


def logged(service: Service, **fields: Any) -> dict[str, Any]:
    """Return the first line of the log with these fields."""

    def found() -> dict[str, Any] | None:
        lines = [json.loads(line) for line in service.log_text().splitlines() if line[:1] == "{"]
        return next((x for x in lines if fields.items() <= x.items()), None)

    line: dict[str, Any] = until(found)
    return line


def test_an_operation_is_a_span_and_its_statement_one_below(
    traced: Service, collector: Collector
) -> None:
    with tenant(traced, "Traced") as acme:
        project = acme.project("canary")["id"]
        headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "vendor=canary"}
        acme.http.get(f"/orgs/{acme.org}/projects/{project}", headers=headers)
        (span,) = until(lambda: collector.named("projects.get"))
        assert span.trace_id.hex() == TRACE
        assert span.parent_span_id.hex() == PARENT
        assert span.kind == Span.SPAN_KIND_SERVER
        assert attributes(span) == {
            "http.request.method": "GET",
            "http.route": "/orgs/{org_id}/projects/{project_id}",
            "http.response.status_code": 200,
            "url.scheme": "http",
        }
        below = until(lambda: [s for s in collector.spans() if s.parent_span_id == span.span_id])
        (statement,) = below
        assert statement.name == "SELECT"
        assert statement.kind == Span.SPAN_KIND_CLIENT
        known = attributes(statement)
        assert known["db.system.name"] == "postgresql"
        assert "projects" in known["db.query.text"]
        assert "$1" in known["db.query.text"]
        assert span.start_time_unix_nano <= statement.start_time_unix_nano
        assert statement.end_time_unix_nano <= span.end_time_unix_nano
        assert logged(traced, operation="projects.get")["trace_id"] == TRACE
        resource = {item.key: item.value.string_value for item in _resource(collector)}
        assert resource["service.name"] == "covenant"
        told = str(collector.requests)
        for secret in (acme.org, acme.subject, acme.token, project, "canary"):
            assert secret not in told


def _resource(collector: Collector) -> Any:
    return collector.requests[0].resource_spans[0].resource.attributes


def test_several_statements_are_spans_of_one_request(traced: Service, collector: Collector) -> None:
    with tenant(traced, "Created"):
        span = until(lambda: collector.named("orgs.create"))[-1]
    below = until(lambda: [s for s in collector.spans() if s.parent_span_id == span.span_id])
    assert len(below) >= 2
    assert all(attributes(s)["db.system.name"] == "postgresql" for s in below)


def test_a_request_without_a_trace_begins_one(traced: Service, collector: Collector) -> None:
    with traced.http() as client:
        assert client.get("/health", headers={"traceparent": "nonsense"}).status_code == 200
    span = until(lambda: collector.named("system.health"))[-1]
    assert not span.parent_span_id
    assert logged(traced, operation="system.health", trace_id=span.trace_id.hex())


def test_a_refusal_has_its_status_and_no_text(traced: Service, collector: Collector) -> None:
    with traced.http() as client:
        assert client.get("/auth/me").status_code == 401
        assert client.get("/nowhere/canary").status_code == 404
    span = until(lambda: collector.named("auth.me"))[-1]
    assert attributes(span)["http.response.status_code"] == 401
    assert span.status.code == 0
    assert not span.events
    assert "canary" not in str(collector.requests)


def test_a_statement_that_fails_tells_its_code_and_never_its_row(
    traced: Service, collector: Collector
) -> None:
    with tenant(traced, "Twice") as acme:
        acme.project("canary-twice")
        again = acme.http.post(f"/orgs/{acme.org}/projects", json={"name": "canary-twice"})
        assert again.status_code == 409

    def failed() -> list[Span]:
        return [s for s in collector.spans() if attributes(s).get("error.type") == "23505"]

    (statement,) = until(failed)
    assert statement.status.code == 2
    assert "canary" not in str(collector.requests)


def test_a_collector_that_is_away_costs_two_lines_and_no_time(
    tmp_path: Path, database: Database
) -> None:
    port = free_port()
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}"}
    quick = {**SOON, "OTEL_EXPORTER_OTLP_TIMEOUT": "1"}
    with serving(tmp_path, database.app_url, **endpoint, **quick) as own, own.http() as client:

        def said(text: str) -> bool:
            assert client.get("/health").elapsed.total_seconds() < 1
            return text in own.log_text()

        until(lambda: said("traces cannot be sent"))
        with collecting(port) as collector:
            until(lambda: said("traces are sent again"))
            until(lambda: said("again") and len(collector.requests) > 3)
        begun = time.monotonic()
        assert own.terminate() == 0
        assert time.monotonic() - begun < 5
        assert own.log_text().count("traces are sent again") == 1
        assert "Traceback" not in own.log_text()


def test_a_collector_that_says_nothing_holds_up_no_exit(tmp_path: Path, database: Database) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with serving(
            tmp_path, database.app_url, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, **SOON
        ) as own:
            with own.http() as client:
                assert client.get("/health").status_code == 200
            with silent.accept()[0]:
                begun = time.monotonic()
                assert own.terminate() == 0
                assert time.monotonic() - begun < 5


def test_the_last_spans_leave_before_the_service_does(tmp_path: Path, database: Database) -> None:
    with collecting() as collector:
        endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
        with serving(tmp_path, database.app_url, **endpoint) as own:
            with own.http() as client:
                client.get("/")
            assert own.terminate() == 0
        assert collector.named("system.index")


def test_nothing_of_it_is_loaded_when_it_is_off(tmp_path: Path) -> None:
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


def test_the_other_settings_of_opentelemetry_are_its_own() -> None:
    given = {"DATABASE_URL": "postgresql://a@b/c", "KEYS_DIR": "/keys"}
    for name in ("TRACES_ENDPOINT", "METRICS_ENDPOINT", "HEADERS", "TIMEOUT", "PROTOCOL"):
        assert settings.load({**given, f"OTEL_EXPORTER_OTLP_{name}": "x"}).port == 8080
