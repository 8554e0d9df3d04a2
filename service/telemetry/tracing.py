"""Traces (OpenTelemetry), imported only when an endpoint is set.

Each operation is a span, with a child span for each statement. No tenant, id, URL or value is part
of a span: operations and routes are named as in the contract, statements have placeholders.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from connexion.middleware.abstract import ROUTING_CONTEXT
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, format_trace_id
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from psycopg import AsyncRawCursor
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from db.connections.database import Database
from openapi.contract import Contract
from service.http import problems

FLUSH_TIMEOUT_SECONDS = 2.0  # an unavailable collector must not delay the exit

log = logging.getLogger("covenant.traces")  # used from another thread


class LoggingExporter(OTLPSpanExporter):
    """Logs when sending traces begins to fail, and when it works again."""

    is_working = True

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send spans to the collector."""
        result = super().export(spans)
        is_working = result is SpanExportResult.SUCCESS
        if is_working != self.is_working:
            self.is_working = is_working
            log.warning("traces_sent_again" if is_working else "traces_not_sent")
        return result


class Tracing:
    """Owns what creates and sends the spans of this process."""

    def __init__(self, endpoint: str, contract: Contract) -> None:
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        attributes = {"service.name": contract.name, "service.version": contract.version}
        resource = Resource.create(attributes)
        # `close` shuts the provider down, in the service's lifespan.
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        exporter = LoggingExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("covenant", contract.version)
        self._contract = contract

    def middleware(self, app: ASGIApp) -> "SpanMiddleware":
        """Return the middleware that creates a span per operation."""
        return SpanMiddleware(app, self._tracer, self._contract)

    def database(self, url: str | Callable[[], str], **options: Any) -> "TracedDatabase":
        """Return a database that creates a span per statement."""
        return TracedDatabase(self._tracer, url, **options)

    async def close(self) -> None:
        """Send the remaining spans, for at most `FLUSH_TIMEOUT_SECONDS`."""
        sender = threading.Thread(target=self._provider.shutdown, daemon=True)
        sender.start()
        await asyncio.to_thread(sender.join, FLUSH_TIMEOUT_SECONDS)


class SpanMiddleware:
    """Creates a span per operation, after routing."""

    def __init__(self, app: ASGIApp, tracer: Tracer, contract: Contract) -> None:
        self._app = app
        self._tracer = tracer
        self._routes = {id: operation.path for id, operation in contract.operations.items()}
        self._propagator = TraceContextTextMapPropagator()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        operation = scope["extensions"][ROUTING_CONTEXT]["operation_id"]
        parents = [value for name, value in scope["headers"] if name == b"traceparent"]
        carrier = {"traceparent": parents[0].decode("latin-1")} if len(parents) == 1 else {}
        with self._tracer.start_as_current_span(
            operation,
            self._propagator.extract(carrier),
            SpanKind.SERVER,
            {
                "http.request.method": scope["covenant"].method,
                "http.route": self._routes[operation],
                "url.scheme": scope["scheme"],
            },
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            scope["covenant"].trace_id = format_trace_id(span.get_span_context().trace_id)

            async def send_and_record(message: Message) -> None:
                if message["type"] == "http.response.start":
                    _set_status(span, message["status"])
                await send(message)

            try:
                await self._app(scope, receive, send_and_record)
            except ConnectionResetError:
                span.set_attribute("error.type", "disconnected")
                raise
            except Exception as error:
                _set_status(span, problems.from_error(error).status)
                raise


class TracedDatabase(Database):
    """A database that creates a child span of the request for each of its statements."""

    def __init__(self, tracer: Tracer, url: str | Callable[[], str], **options: Any) -> None:
        class TracedCursor(AsyncRawCursor[Any]):
            async def execute(self, query: Any, *args: Any, **kwargs: Any) -> Any:
                with _statement_span(tracer, str(query)):
                    return await super().execute(query, *args, **kwargs)

        super().__init__(url, cursor_factory=TracedCursor, **options)
        self._tracer = tracer

    async def fetch(self, settings: Any, sql: str, *args: Any, **kwargs: Any) -> Any:
        """Run one statement, like `Database.fetch`."""
        with _statement_span(self._tracer, sql):
            return await super().fetch(settings, sql, *args, **kwargs)


@contextmanager
def _statement_span(tracer: Tracer, sql: str) -> Iterator[None]:
    """Create a span for one statement, if it belongs to a traced request."""
    if not trace.get_current_span().get_span_context().is_valid:
        yield
        return
    attributes = {"db.system.name": "postgresql", "db.query.text": sql}
    name = sql.split(None, 1)[0].upper() if sql.strip() else "EMPTY"
    with tracer.start_as_current_span(
        name,
        kind=SpanKind.CLIENT,
        attributes=attributes,
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        try:
            yield
        except Exception as error:
            # Never the message of the error: PostgreSQL writes rows and values into it.
            error_type = getattr(error, "sqlstate", None) or type(error).__name__
            span.set_attribute("error.type", error_type)
            span.set_status(StatusCode.ERROR)
            raise


def _set_status(span: Span, status: int) -> None:
    span.set_attribute("http.response.status_code", status)
    if status >= 500:
        span.set_attribute("error.type", str(status))
        span.set_status(StatusCode.ERROR)
