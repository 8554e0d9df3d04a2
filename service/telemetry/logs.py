"""Logging: one JSON object per line, or text for people when standard output is a terminal."""

import logging
import sys
import traceback
from collections.abc import Callable, MutableMapping
from typing import Any, TextIO

import orjson
import structlog

from db.errors import first_line
from service.telemetry.log_writer import LogWriter, TextLogWriter

SILENCED = ("connexion", "httpx", "psycopg.pool", "uvicorn.access")

LogRequest = Callable[[dict[str, Any], str], None]

log = structlog.get_logger("covenant.request")

# Without local variables: they contain tokens and bodies.
_TRACEBACKS = structlog.processors.ExceptionRenderer(
    structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
)


def request_logger() -> LogRequest:
    """Return the function that logs a request, from its fields and its path.

    Only the text format shows the path, which contains ids; JSON has the operation instead.
    """
    writer = structlog.get_config()["logger_factory"]
    if isinstance(writer, LogWriter):
        return writer.request

    def log_request(fields: dict[str, Any], path: str) -> None:
        log.info("request", **fields)

    return log_request


def configure(log_format: str) -> None:
    """Set up logging for this process; `auto` is text on a terminal and JSON elsewhere."""
    is_terminal = sys.stdout.isatty()
    is_text = log_format == "text" or (log_format == "auto" and is_terminal)
    descriptor = sys.stdout.fileno()
    writer = TextLogWriter(descriptor, colors=is_terminal) if is_text else LogWriter(descriptor)
    timestamp = (
        structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False)
        if is_text
        else structlog.processors.TimeStamper(fmt="iso", utc=True)
    )
    shared: list[Any] = [structlog.stdlib.add_log_level, timestamp]
    render: list[Any] = (
        [
            structlog.dev.ConsoleRenderer(
                colors=is_terminal,
                pad_event_to=0,
                exception_formatter=_write_traceback,
            )
        ]
        if is_text
        else [_TRACEBACKS, _without_row_values, structlog.processors.JSONRenderer(_dumps)]
    )
    structlog.configure(
        processors=[_without_none, *shared, *render],
        logger_factory=writer,
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        cache_logger_on_first_use=True,
    )
    handler: logging.Handler = logging.StreamHandler(writer)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    for name in SILENCED:
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _write_traceback(out: TextIO, exc_info: structlog.typing.ExcInfo) -> None:
    """Write a traceback as Python does, with the first line of each error's message.

    PostgreSQL adds rows and values below that line.
    """
    error: BaseException | None = exc_info[1]
    parts = []
    while error is not None:
        frames = "".join(traceback.format_tb(error.__traceback__))
        name = type(error).__qualname__
        parts.append(f"Traceback (most recent call last):\n{frames}{name}: {first_line(error)}\n")
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    out.write("\n" + "\nThe exception above led to the one below:\n\n".join(parts[::-1]).rstrip())


def _without_none(logger: Any, method: str, event: MutableMapping[str, Any]) -> dict[str, Any]:
    """Omit fields whose value is None."""
    return {key: value for key, value in event.items() if value is not None}


def _without_row_values(logger: Any, method: str, event: dict[str, Any]) -> dict[str, Any]:
    """Keep the first line of an error's message: PostgreSQL adds rows and values below it."""
    for error in event.get("exception", ()):
        error["exc_value"] = error["exc_value"].partition("\n")[0]
    return event


def _dumps(event: dict[str, Any], **_: Any) -> str:
    first = {key: event.pop(key) for key in ("timestamp", "level", "event") if key in event}
    return orjson.dumps(first | event, default=str).decode()
