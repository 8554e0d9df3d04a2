"""Logs: one JSON object a line, or lines for people where standard output is a terminal."""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import orjson
import structlog

QUIET = ("connexion", "httpx", "psycopg.pool", "uvicorn.access")

# Without local variables: they hold tokens and bodies.
_TRACEBACKS = structlog.processors.ExceptionRenderer(
    structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
)


def configure(log_format: str) -> None:
    """Set up logging for the process; `auto` is text on a terminal and JSON elsewhere."""
    text = log_format == "text" or (log_format == "auto" and sys.stdout.isatty())
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    render: list[Any] = (
        [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
        if text
        else [_TRACEBACKS, _first_lines, structlog.processors.JSONRenderer(_dumps)]
    )
    structlog.configure(
        processors=[_named, *shared, *render],
        logger_factory=structlog.PrintLoggerFactory(sys.stdout),
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _named(logger: Any, method: str, event: MutableMapping[str, Any]) -> dict[str, Any]:
    """Leave out what is not known, as an absent tenant."""
    return {key: value for key, value in event.items() if value is not None}


def _first_lines(logger: Any, method: str, event: dict[str, Any]) -> dict[str, Any]:
    """Keep the first line of what an error says: PostgreSQL writes rows and values below it."""
    for error in event.get("exception", ()):
        error["exc_value"] = error["exc_value"].partition("\n")[0]
    return event


def _dumps(event: dict[str, Any], **_: Any) -> str:
    first = {key: event.pop(key) for key in ("timestamp", "level", "event") if key in event}
    return orjson.dumps(first | event, default=str).decode()
