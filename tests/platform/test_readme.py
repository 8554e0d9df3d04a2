"""What README.md says to type, typed in a copy of the tree; what it shows is what comes."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from evidence.harness.processes import ROOT, free_port
from tests.platform.fix_service import has_status, until
from tests.platform.fix_tools import tool

README = (ROOT / "README.md").read_text()
OWN, API = "## A resource of your own", "## The API"
OURS = (
    "openapi",
    "handlers",
    "service",
    "db",
    "dev",
    "codegen",
    "charts",
    "argo",
    "requirements",
    "Makefile",
)
# What is another each time.
MASKS = (
    (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "<id>"),
    (r"\d{4}-\d\d-\d\dT[0-9:]+\.\d+\+00:00", "<time>"),
    (r"\b([0-9a-f]{64}|[0-9a-f]{16})\b", "<hex>"),
    (r"\b\d{4}_tasks", "<revision>"),
    (r"\b\d+ (lines|files|written)", r"<n> \1"),
)


def blocks(heading: str) -> list[tuple[str, str]]:
    """Return (language, text) of the fenced blocks of a section."""
    section = README.split(f"\n{heading}\n")[1].split("\n## ")[0]
    return re.findall(r"^```(\w*)\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)


def masked(text: str) -> str:
    for pattern, name in MASKS:
        text = re.sub(pattern, name, text)
    return text.strip()


class Terminal:
    """A shell in the copy; what is installed for it is what the tests have."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "COV"))}
        for name in ("NAME", "FIELDS", "VERBS", "ARGS", "DATABASE_URL", "TEST_DATABASE_URL"):
            inherited.pop(name, None)
        self.environment = inherited | {"LOG_FORMAT": "json"}

    def type(self, text: str) -> str:
        """Return what commands print, on both outputs."""
        text = text.replace("127.0.0.1:8080", f"127.0.0.1:{self.port}")
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout


@pytest.fixture(scope="module")
def terminal(tmp_path_factory: pytest.TempPathFactory) -> Terminal:
    tool("curl")
    folder = tmp_path_factory.mktemp("copy")
    for name in OURS:
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        options = {"ignore": shutil.ignore_patterns("__pycache__")} if source.is_dir() else {}
        copy(source, folder / name, **options)
    for name, line in (
        ("bin/python", 'exec {} "$@"'),
        ("client/bin/python", 'exec {} "$@"'),
        ("client/bin/openapi-python-client", 'exec {} -m openapi_python_client "$@"'),
    ):
        program = folder / ".venv" / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(f"#!/bin/sh\n{line.format(sys.executable)}\n")
        program.chmod(0o755)
    (folder / ".venv/client/bin/ruff").symlink_to(Path(sys.executable).parent / "ruff")
    for name in ("local.stamp", "test.stamp", "client/stamp"):
        (folder / ".venv" / name).touch()
    return Terminal(folder)


@pytest.fixture(scope="module")
def written(terminal: Terminal) -> tuple[str, str]:
    """Type the commands that write, and return what they print and what is shown of that."""
    (_, commands), (_, shown), *_ = blocks(OWN)
    *writing, run = commands.strip().splitlines()
    assert run == "make run"
    return terminal.type("\n".join(writing)), shown


@pytest.fixture(scope="module")
def running(terminal: Terminal, written: tuple[str, str]) -> Iterator[Terminal]:
    """`make run` in another terminal."""
    log = terminal.folder / "run.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["make", "run", f"PORT={terminal.port}", f"ADMIN_PORT={free_port()}"],
            cwd=terminal.folder,
            env=terminal.environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{terminal.port}/ready"
        until(lambda: has_status(url) or process.poll() is not None, 60)
        assert process.poll() is None, log.read_text()
        yield terminal
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(30)


def test_a_resource_is_written_as_it_is_shown(written: tuple[str, str]) -> None:
    printed, shown = written
    assert masked(printed) == masked(shown)


def test_a_resource_takes_no_line_of_python_but_the_revision(
    terminal: Terminal, written: tuple[str, str]
) -> None:
    def modules(folder: Path) -> dict[str, str]:
        files = (
            f
            for name in ("openapi", "handlers", "service", "db")
            for f in (folder / name).rglob("*.py")
        )
        return {str(file.relative_to(folder)): file.read_text() for file in files}

    before, after = modules(ROOT), modules(terminal.folder)
    (revision,) = (name for name in after if after[name] != before.get(name))
    assert re.fullmatch(r"db/migrations/versions/\d{4}_tasks\.py", revision)


def test_nothing_is_stale_after_it(terminal: Terminal, written: tuple[str, str]) -> None:
    terminal.type("make stale && .venv/bin/python -m dev.lint")


def test_the_resource_and_its_client_answer_as_it_is_shown(running: Terminal) -> None:
    walk, answer, client, typed = (text for _, text in blocks(OWN)[2:])
    first, second = running.type(f"{walk}\necho ----\n{client}").split("----\n")
    assert masked(first) == masked(answer)
    assert masked(second) == masked(typed)


def test_the_walk_through_the_api_ends_in_two_answers_that_are_the_same(running: Terminal) -> None:
    ((_, walk),) = blocks(API)
    *lines, theirs, absent = masked(running.type(walk)).splitlines()
    assert any('"name":"Apollo"' in line for line in lines)
    assert '"code":"not-found"' in theirs
    assert theirs == absent
