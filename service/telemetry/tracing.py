"""Traces (OpenTelemetry), loaded only when there is somewhere to send them.

A span for each operation, and below it one for each statement. No tenant, id, URL or value is part
of one: operations and routes are named as in the contract, statements have placeholders.
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

# Seconds that the last spans may take to leave: a collector that is away holds up no exit.
FLUSH_TIMEOUT_SECONDS = 2.0

log = logging.getLogger("covenant.traces")  # another thread speaks here


class LoggingExporter(OTLPSpanExporter):
    """Says once that the collector is away, and once that it is back."""

    works = True

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = super().export(spans)
        works = result is SpanExportResult.SUCCESS
        if works != self.works:
            self.works = works
            log.warning("traces are sent again" if works else "traces cannot be sent")
        return result


class Tracing:
    """Owns what makes and sends the spans of this process."""

    def __init__(self, endpoint: str, contract: Contract) -> None:
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        named = {"service.name": contract.name, "service.version": contract.version}
        # By a signal the process ends as its lifespan says, not at its exit.
        self._provider = TracerProvider(resource=Resource.create(named), shutdown_on_exit=False)
        exporter = LoggingExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("covenant", contract.version)
        self._contract = contract

    def middleware(self, app: ASGIApp) -> "SpanMiddleware":
        return SpanMiddleware(app, self._tracer, self._contract)

    def database(self, url: str | Callable[[], str], **options: Any) -> "TracedDatabase":
        return TracedDatabase(self._tracer, url, **options)

    async def close(self) -> None:
        """Send what is left, for at most `FLUSH` seconds."""
        sender = threading.Thread(target=self._provider.shutdown, daemon=True)
        sender.start()
        await asyncio.to_thread(sender.join, FLUSH_TIMEOUT_SECONDS)


class SpanMiddleware:
    """Around each operation, once it is known which."""

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
        sent = [value for name, value in scope["headers"] if name == b"traceparent"]
        carrier = {"traceparent": sent[0].decode("latin-1")} if len(sent) == 1 else {}
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

            async def watched(message: Message) -> None:
                if message["type"] == "http.response.start":
                    _set_status(span, message["status"])
                await send(message)

            try:
                await self._app(scope, receive, watched)
            except ConnectionResetError:
                span.set_attribute("error.type", "disconnected")
                raise
            except Exception as error:
                _set_status(span, problems.from_error(error).status)
                raise


class TracedDatabase(Database):
    """A database whose statements are spans of the request that waits for them."""

    def __init__(self, tracer: Tracer, url: str | Callable[[], str], **options: Any) -> None:
        class TracedCursor(AsyncRawCursor[Any]):
            async def execute(self, query: Any, *rest: Any, **more: Any) -> Any:
                with _statement_span(tracer, str(query)):
                    return await super().execute(query, *rest, **more)

        super().__init__(url, cursor_factory=TracedCursor, **options)
        self._tracer = tracer

    async def fetch(self, settings: Any, sql: str, *rest: Any, **more: Any) -> Any:
        with _statement_span(self._tracer, sql):
            return await super().fetch(settings, sql, *rest, **more)


@contextmanager
def _statement_span(tracer: Tracer, sql: str) -> Iterator[None]:
    """A span for one statement; what nobody's request waits for has none."""
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
            # Never its text: PostgreSQL writes rows and values into it.
            span.set_attribute("error.type", getattr(error, "sqlstate", None) or _name(error))
            span.set_status(StatusCode.ERROR)
            raise


def _set_status(span: Span, status: int) -> None:
    span.set_attribute("http.response.status_code", status)
    if status >= 500:
        span.set_attribute("error.type", str(status))
        span.set_status(StatusCode.ERROR)


def _name(error: Exception) -> str:
    return type(error).__name__
