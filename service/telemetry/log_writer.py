"""Writes log lines to a file descriptor: whole and in order, even after the disk was full."""

import asyncio
import atexit
import os
import time
from contextlib import suppress
from typing import Any

import orjson
import structlog

# How long the line of a request may wait, so that one system call writes several lines.
FLUSH_AFTER_SECONDS = 0.01

log = structlog.get_logger("covenant.log")


class LogWriter:
    """The logger of structlog, and the stream of `logging`.

    It writes to the descriptor itself: a Python stream drops what it could not write, and appends
    the next line to the partial one.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._buffer: list[str] = []
        self._line_rest = b""  # the unwritten end of a line that was written in part
        self._lost = 0
        self._second = -1
        self._date = ""
        atexit.register(self.flush)

    def __call__(self, *_: Any) -> "LogWriter":
        return self

    def msg(self, line: str) -> None:
        """Write a line at once."""
        self._buffer.append(line)
        self.flush()

    debug = info = warning = error = critical = exception = msg

    def write(self, line: str) -> None:
        """Write a line with its line end, as `logging` passes it."""
        self.msg(line.removesuffix("\n"))

    def write_soon(self, line: str) -> None:
        """Write a line within `FLUSH_AFTER_SECONDS`, from a running event loop.

        Most lines are those of requests; a system call for each would cost too much.
        """
        if not self._buffer:
            asyncio.get_running_loop().call_later(FLUSH_AFTER_SECONDS, self.flush)
        self._buffer.append(line)

    def request(self, fields: dict[str, Any], path: str) -> None:
        """Write the JSON line of a request."""
        head = {"timestamp": self._timestamp(), "level": "info", "event": "request"}
        self.write_soon(orjson.dumps(head | fields).decode())

    def flush(self) -> None:
        """Write the buffer. Lines that cannot be written are lost; the log reports that later."""
        lines, self._buffer = self._buffer, []
        if not lines:
            return
        data = self._line_rest + ("\n".join(lines) + "\n").encode()
        written = _write(self._descriptor, data)
        unwritten = data[written:]
        is_partial = not data[:written].endswith(b"\n") if written else bool(self._line_rest)
        self._line_rest = unwritten[: unwritten.index(b"\n") + 1] if is_partial else b""
        self._lost += unwritten.count(b"\n") - is_partial
        if self._lost and not unwritten:
            lost, self._lost = self._lost, 0
            log.warning("log_lines_lost", lines=lost)

    def _timestamp(self) -> str:
        second, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
        if second != self._second:
            self._second = second
            self._date = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._date}.{nanoseconds // 1000:06d}Z"


MAX_COLUMNS = 100
COLORS = {2: "\033[32m", 3: "\033[36m", 4: "\033[33m", 5: "\033[31m"}  # by status class
RESET = "\033[0m"


class TextLogWriter(LogWriter):
    """Writes the line of a request for people: time, method, path, status, duration."""

    def __init__(self, descriptor: int, *, colors: bool) -> None:
        super().__init__(descriptor)
        self._colors = colors

    def request(self, fields: dict[str, Any], path: str) -> None:
        """Write the line of a request in at most `MAX_COLUMNS` columns."""
        start = f"{time.strftime('%H:%M:%S')} {fields.get('method', '-'):7} "
        status, end = str(fields["status"]), f" {fields['duration_ms']:8.1f} ms"
        width = MAX_COLUMNS - len(start) - len(status) - len(end) - 1
        printable = "".join(c if c.isprintable() else "?" for c in path)
        shown = printable if len(printable) <= width else f"{printable[: width - 1]}…"
        if self._colors:
            color = COLORS.get(fields["status"] // 100, "")
            status = f"{color}{status}{RESET}"
        self.write_soon(f"{start}{shown:{width}} {status}{end}")


def _write(descriptor: int, data: bytes) -> int:
    """Return how many bytes were written: all, unless the disk is full or the pipe is closed."""
    written = 0
    with suppress(OSError):
        while written < len(data):
            written += os.write(descriptor, data[written:])
    return written
