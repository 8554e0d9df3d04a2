"""The log: complete lines whatever happens to the descriptor, and one line per request."""

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from evidence.harness.processes import ROOT
from service.telemetry.log_writer import COLORS, MAX_COLUMNS, RESET, LogWriter, TextLogWriter
from tests.platform.fix_postgres import Database
from tests.platform.fix_raw import raw
from tests.platform.fix_service import serving, tenant, until

REQUEST_LINE = re.compile(r"(\d\d:\d\d:\d\d) (\S+) +(\S+) +(\d{3}) +(\d+\.\d) ms")


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Both ends of a pipe with space for 64 KiB, like a disk that is nearly full."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    try:
        yield reader, writer
    finally:
        os.close(reader)
        os.close(writer)


def line(number: int) -> str:
    return json.dumps({"line": number, "padding": "x" * 500})


def test_a_partially_written_line_is_completed_before_the_next(pipe: tuple[int, int]) -> None:
    reader, descriptor = pipe
    writer = LogWriter(descriptor)
    with capture_logs() as events:
        writer.write("".join(f"{line(number)}\n" for number in range(300)))
        before = os.read(reader, 1 << 20)
        writer.msg(line(300))
        after = os.read(reader, 1 << 20)
    assert not before.endswith(b"\n")
    numbers = [json.loads(text)["line"] for text in (before + after).splitlines()]
    written = len(numbers) - 1
    assert numbers == [*range(written), 300]
    assert events == [{"event": "log_lines_lost", "lines": 300 - written, "log_level": "warning"}]


def test_lost_lines_are_counted_and_reported_once_there_is_space(pipe: tuple[int, int]) -> None:
    reader, descriptor = pipe
    writer = LogWriter(descriptor)
    os.write(descriptor, b"." * (1 << 20))
    with capture_logs() as events:
        for number in range(3):
            writer.msg(line(number))
        assert not events
        os.read(reader, 1 << 20)
        writer.msg(line(3))
        writer.msg(line(4))
    assert os.read(reader, 1 << 20).decode() == f"{line(3)}\n{line(4)}\n"
    assert [(event["event"], event["lines"]) for event in events] == [("log_lines_lost", 3)]


def test_a_log_without_a_reader_raises_no_error() -> None:
    reader, descriptor = os.pipe()
    os.close(reader)
    writer = LogWriter(descriptor)
    writer.msg(line(0))
    os.close(descriptor)
    writer.msg(line(1))


def written(pipe: tuple[int, int], fields: dict[str, object], path: str, *, colors: bool) -> str:
    """Return the text line of a request."""
    reader, descriptor = pipe

    async def write() -> None:
        writer = TextLogWriter(descriptor, colors=colors)
        writer.request(fields, path)
        writer.flush()

    asyncio.run(write())
    return os.read(reader, 1 << 20).decode()


@pytest.mark.parametrize(
    ("path", "shown"),
    [("/", "/"), ("/\x1b[2J\n\x07", r"/\?\[2J\?\?"), ("/orgs/" + "x" * 300, "/orgs/x+…")],
    ids=["short", "unprintable", "long"],
)
@pytest.mark.parametrize("milliseconds", [0.04, 12.345, 123456.7])
def test_the_text_line_of_a_request_fits_into_100_columns(
    pipe: tuple[int, int], path: str, shown: str, milliseconds: float
) -> None:
    fields = {"method": "OPTIONS", "status": 204, "duration_ms": milliseconds}
    text = written(pipe, fields, path, colors=False)
    assert text.endswith("\n")
    assert len(text) - 1 <= MAX_COLUMNS == 100
    match = REQUEST_LINE.fullmatch(text[:-1])
    assert match, text
    assert match[2] == "OPTIONS"
    assert re.fullmatch(shown, match[3])
    assert (match[4], match[5]) == ("204", f"{milliseconds:.1f}")


@pytest.mark.parametrize("status", [200, 304, 404, 503])
def test_the_status_is_coloured_by_its_class(pipe: tuple[int, int], status: int) -> None:
    fields: dict[str, object] = {"method": "GET", "status": status, "duration_ms": 1.0}
    text = written(pipe, fields, "/health", colors=True)
    coloured = f"{COLORS[status // 100]}{status}{RESET}"
    assert f" {coloured} " in text
    assert "\x1b" not in text.replace(coloured, "")


def test_text_has_no_colours_unless_it_is_written_to_a_terminal() -> None:
    code = (
        "import structlog; from service.telemetry import logs; "
        "logs.configure('text'); structlog.get_logger().info('database_ready', port=8080)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    expected = r"\d\d:\d\d:\d\d \[info +\] database_ready +port=8080\n"
    assert re.fullmatch(expected, done.stdout), done


FAILING_PROGRAM = """
import sys, psycopg, structlog
from service.telemetry import logs
logs.configure(sys.argv[1])
try:
    try:
        raise psycopg.errors.CheckViolation("a check failed\\nDETAIL:  Failing row\\n\\n(s3cret)")
    except psycopg.Error as error:
        raise RuntimeError("the handler failed\\nwith s3cret") from error
except RuntimeError:
    structlog.get_logger().exception("request_failed")
"""


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_a_traceback_has_the_first_line_of_each_message_without_row_values(log_format: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FAILING_PROGRAM, log_format],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "s3cret" not in done.stdout
    cause, effect = (done.stdout.find(m) for m in ("a check failed", "the handler failed"))
    assert min(cause, effect) > 0
    if log_format == "text":
        assert cause < done.stdout.index("led to the one below") < effect


def test_the_text_log_of_a_service_shows_one_line_per_request(
    tmp_path: Path, database: Database
) -> None:
    with serving(tmp_path, database.app_url, LOG_FORMAT="text") as service:
        with tenant(service, "Acme") as acme:
            path = f"/orgs/{acme.org}/projects"
            acme.get(path)
        with raw(service.port) as connection:
            assert connection.send(b"nonsense\r\n\r\n").response().status_code == 400

        def requests() -> list[tuple[str, str, str]]:
            matches = map(REQUEST_LINE.fullmatch, service.log_lines())
            return [(match[2], match[3], match[4]) for match in matches if match]

        until(lambda: len(requests()) >= 4 and requests()[-1][2] == "400")
        assert ("POST", "/auth/guest", "201") in requests()
        assert ("GET", path, "200") in requests()
        assert requests()[-1] == ("-", "-", "400")
        assert any("database_ready" in text for text in service.log_lines())
        assert "\x1b" not in service.log_text()
