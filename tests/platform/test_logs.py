"""The log: its lines are whole, whatever becomes of the place where they are written."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from evidence.harness.processes import ROOT
from service.telemetry.logs import LogWriter


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A place for some 64 KiB, as a disk that is nearly full: both ends of a pipe."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    try:
        yield reading, writing
    finally:
        os.close(reading)
        os.close(writing)


def line(number: int) -> str:
    return json.dumps({"line": number, "padding": "x" * 500})


def test_a_line_that_was_written_in_part_is_finished_before_the_next(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    lines = LogWriter(writing, is_json=True)
    with capture_logs() as said:
        lines.write("".join(f"{line(number)}\n" for number in range(300)))
        before = os.read(reading, 1 << 20)
        lines.msg(line(300))
        after = os.read(reading, 1 << 20)
    assert not before.endswith(b"\n")
    numbers = [json.loads(each)["line"] for each in (before + after).splitlines()]
    kept = len(numbers) - 1
    assert numbers == [*range(kept), 300]
    assert said == [{"event": "log lines lost", "lines": 300 - kept, "log_level": "warning"}]


def test_lines_are_counted_as_lost_until_there_is_space(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    lines = LogWriter(writing, is_json=True)
    os.write(writing, b"." * (1 << 20))
    with capture_logs() as said:
        for number in range(3):
            lines.msg(line(number))
        assert not said
        os.read(reading, 1 << 20)
        lines.msg(line(3))
        lines.msg(line(4))
    assert os.read(reading, 1 << 20).decode() == f"{line(3)}\n{line(4)}\n"
    assert [each["lines"] for each in said] == [3]


def test_a_log_that_nobody_reads_any_more_stops_nothing() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    lines = LogWriter(writing, is_json=True)
    lines.msg(line(0))
    os.close(writing)
    lines.msg(line(1))


def test_text_has_colours_on_a_terminal_only() -> None:
    code = (
        "import structlog; from service.telemetry import logs; "
        "logs.configure('text'); structlog.get_logger().info('ready', port=8080)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert re.fullmatch(r"\S+Z \[info +\] ready +port=8080\n", done.stdout), done
