"""Logs: one JSON object a line, or lines for people where standard output is a terminal."""

import asyncio
import atexit
import logging
import os
import sys
import time
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from typing import Any

import orjson
import structlog

# Seconds that the line of a request may wait for others, to be written with them at once.
FLUSH_AFTER_SECONDS = 0.01
SILENCED = ("connexion", "httpx", "psycopg.pool", "uvicorn.access")

log = structlog.get_logger("covenant.log")

# Without local variables: they hold tokens and bodies.
_TRACEBACKS = structlog.processors.ExceptionRenderer(
    structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
)


class LogWriter:
    """What the log is written with: lines are whole and in order, also after a disk was full.

    It writes to the descriptor itself: a stream drops what it could not write, and the next line
    goes on where a torn one ended.
    """

    def __init__(self, descriptor: int, *, is_json: bool) -> None:
        self.is_json = is_json
        self._descriptor = descriptor
        self._waiting: list[str] = []
        self._torn = b""  # what is missing of a line that was written in part
        self._lost = 0
        self._second = -1
        self._date = ""
        atexit.register(self.flush)

    def __call__(self, *_: Any) -> "LogWriter":
        return self

    def msg(self, line: str) -> None:
        self._waiting.append(line)
        self.flush()

    debug = info = warning = error = critical = exception = msg

    def write(self, line: str) -> None:
        """Take a line with its end, as `logging` gives it."""
        self.msg(line.removesuffix("\n"))

    def request(self, fields: dict[str, Any]) -> None:
        """Write the line of a request, which is most of the lines: a system call each is too much.

        From a running event loop only.
        """
        head = {"timestamp": self._timestamp(), "level": "info", "event": "request"}
        line = orjson.dumps(head | fields)
        if not self._waiting:
            asyncio.get_running_loop().call_later(FLUSH_AFTER_SECONDS, self.flush)
        self._waiting.append(line.decode())

    def flush(self) -> None:
        """Write what waits. Lines that cannot be written are lost; the log says so later."""
        lines, self._waiting = self._waiting, []
        if not lines:
            return
        data = self._torn + ("\n".join(lines) + "\n").encode()
        written = _write(self._descriptor, data)
        rest = data[written:]
        is_torn = not data[:written].endswith(b"\n") if written else bool(self._torn)
        self._torn = rest[: rest.index(b"\n") + 1] if is_torn else b""
        self._lost += rest.count(b"\n") - is_torn
        if self._lost and not rest:
            lost, self._lost = self._lost, 0
            log.warning("log lines lost", lines=lost)

    def _timestamp(self) -> str:
        second, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
        if second != self._second:
            self._second = second
            self._date = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._date}.{nanoseconds // 1000:06d}Z"


def request_logger() -> Callable[[dict[str, Any]], None]:
    """Return what writes the line of a request, as the process was configured."""
    lines = structlog.get_config()["logger_factory"]
    if isinstance(lines, LogWriter) and lines.is_json:
        return lines.request

    def write(fields: dict[str, Any]) -> None:
        log.info("request", **fields)

    return write


def configure(log_format: str) -> None:
    """Set up logging for the process; `auto` is text on a terminal and JSON elsewhere."""
    is_terminal = sys.stdout.isatty()
    text = log_format == "text" or (log_format == "auto" and is_terminal)
    lines = LogWriter(sys.stdout.fileno(), is_json=not text)
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    render: list[Any] = (
        [
            structlog.dev.ConsoleRenderer(
                colors=is_terminal, exception_formatter=structlog.dev.plain_traceback
            )
        ]
        if text
        else [_TRACEBACKS, _without_row_values, structlog.processors.JSONRenderer(_dumps)]
    )
    structlog.configure(
        processors=[_without_none, *shared, *render],
        logger_factory=lines,
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        cache_logger_on_first_use=True,
    )
    handler: logging.Handler = logging.StreamHandler(lines)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    for name in SILENCED:
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _write(descriptor: int, data: bytes) -> int:
    """Return how many bytes were written: all of them, unless the disk is full or the pipe gone."""
    written = 0
    with suppress(OSError):
        while written < len(data):
            written += os.write(descriptor, data[written:])
    return written


def _without_none(logger: Any, method: str, event: MutableMapping[str, Any]) -> dict[str, Any]:
    """Leave out what is not known, as an absent tenant."""
    return {key: value for key, value in event.items() if value is not None}


def _without_row_values(logger: Any, method: str, event: dict[str, Any]) -> dict[str, Any]:
    """Keep the first line of what an error says: PostgreSQL writes rows and values below it."""
    for error in event.get("exception", ()):
        error["exc_value"] = error["exc_value"].partition("\n")[0]
    return event


def _dumps(event: dict[str, Any], **_: Any) -> str:
    first = {key: event.pop(key) for key in ("timestamp", "level", "event") if key in event}
    return orjson.dumps(first | event, default=str).decode()
