"""Runs the commands of the README and of the tutorial; the output must be the one they show."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import IO

import httpx
import pytest

from evidence.harness.processes import ROOT, free_port
from tests.platform.fix_docs import DOCS, Block, blocks, section
from tests.platform.fix_service import until
from tests.platform.fix_tools import tool

README = ROOT / "README.md"
TUTORIAL = DOCS / "tutorial.md"
COPIED = (
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
START = "make dev"
STOPPING = '"stopping"'  # logged by the service that `make dev` replaces
END_OF_OUTPUT = "--- end of output"
# What differs from run to run.
MASKS = (
    (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "<id>"),
    (r"\d{4}-\d\d-\d\dT[0-9:]+\.\d+\+00:00", "<time>"),
    (r"\b([0-9a-f]{64}|[0-9a-f]{16})\b", "<hex>"),
    (r"\b\d{4}_tasks", "<revision>"),
    (r"\b\d+ (lines|files|written)", r"<n> \1"),
)


def masked(text: str) -> str:
    for pattern, name in MASKS:
        text = re.sub(pattern, name, text)
    return text.strip()


def commands(text: str) -> list[str]:
    """Return the command lines of the shell blocks, without comments."""
    lines = [line for b in blocks(text) if b.language == "sh" for line in b.text.splitlines()]
    return [command for line in lines if (command := line.partition(" #")[0].strip())]


class Terminal:
    """A shell in a copy of the tree, which uses what is installed for the tests."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "COV"))}
        for name in ("NAME", "FIELDS", "VERBS", "ARGS", "DATABASE_URL", "TEST_DATABASE_URL"):
            inherited.pop(name, None)
        self.environment = inherited | {"LOG_FORMAT": "json"}
        self._shell = subprocess.Popen(
            ["bash", "-euo", "pipefail"],
            cwd=folder,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def type(self, text: str) -> str:
        """Run commands in the shell, and return what they print on both outputs."""
        text = text.replace("127.0.0.1:8080", f"127.0.0.1:{self.port}")
        keyboard, screen = self._pipes()
        # In a group: all of it is read before any of its commands can read from the keyboard.
        keyboard.write(f"{{ :\n{text}\n}} < /dev/null; echo; echo '{END_OF_OUTPUT}'\n")
        keyboard.flush()
        lines: list[str] = []
        for line in screen:
            if line.strip() == END_OF_OUTPUT:
                return "".join(lines)
            lines.append(line)
        raise AssertionError(f"a command failed: {text}\n{''.join(lines)}")

    def close(self) -> None:
        for pipe in self._pipes():
            pipe.close()
        self._shell.wait(30)

    def _pipes(self) -> tuple[IO[str], IO[str]]:
        assert self._shell.stdin
        assert self._shell.stdout
        return self._shell.stdin, self._shell.stdout


@pytest.fixture(scope="module")
def steps() -> list[tuple[Block, Block | None]]:
    """The shell blocks of the tutorial, after the clone, each with the output that follows it."""
    all_blocks = [*blocks(TUTORIAL.read_text()), None]
    pairs = [(block, output) for block, output in pairwise(all_blocks) if block]
    _, *following = [
        (block, output if output and output.language != "sh" else None)
        for block, output in pairs
        if block.language == "sh"
    ]
    return following


@pytest.fixture(scope="module")
def terminal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    tool("curl")
    folder = tmp_path_factory.mktemp("copy")
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, folder / name, ignore=ignored)
        else:
            shutil.copy(source, folder / name)
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
    opened = Terminal(folder, free_port())
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def resource(terminal: Terminal, steps: list[tuple[Block, Block | None]]) -> tuple[str, str]:
    """Run the commands that write the resource; return what they print and what is shown."""
    block, output = steps[0]
    assert output
    return terminal.type(block.text), output.text


@pytest.fixture(scope="module")
def log(terminal: Terminal, resource: tuple[str, str]) -> Iterator[Path]:
    """`make dev` in another terminal; its output."""
    file = terminal.folder / "dev.log"
    with file.open("wb") as output:
        process = subprocess.Popen(
            [*START.split(), f"PORT={terminal.port}", f"ADMIN_PORT={free_port()}"],
            cwd=terminal.folder,
            env=terminal.environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        until(lambda: is_ready(terminal) or process.poll() is not None, 60)
        assert process.poll() is None, file.read_text()
        yield file
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(30)


def is_ready(terminal: Terminal) -> bool:
    try:
        url = f"http://127.0.0.1:{terminal.port}/ready"
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def test_the_commands_that_write_the_resource_print_what_is_shown(
    resource: tuple[str, str],
) -> None:
    printed, shown = resource
    assert masked(printed) == masked(shown)


def test_the_resource_needs_no_python_but_the_revision(
    terminal: Terminal, resource: tuple[str, str]
) -> None:
    def modules(folder: Path) -> dict[str, str]:
        files = (
            file
            for name in ("openapi", "handlers", "service", "db")
            for file in (folder / name).rglob("*.py")
        )
        return {str(file.relative_to(folder)): file.read_text() for file in files}

    before, after = modules(ROOT), modules(terminal.folder)
    (revision,) = (name for name in after if after[name] != before.get(name))
    assert re.fullmatch(r"db/migrations/versions/\d{4}_tasks\.py", revision)


def test_nothing_is_stale_after_the_commands(terminal: Terminal, resource: tuple[str, str]) -> None:
    terminal.type("make stale && .venv/bin/python -m dev.lint")


def test_every_later_step_prints_what_is_shown(
    terminal: Terminal, log: Path, steps: list[tuple[Block, Block | None]]
) -> None:
    (_, _), (start, _), *later = steps
    assert start.text.strip() == START
    for block, output in later:
        stops = log.read_text().count(STOPPING)
        printed = terminal.type(block.text)
        if "cat > handlers/" in block.text:
            until(lambda count=stops: log.read_text().count(STOPPING) > count, 30)
            until(lambda: is_ready(terminal), 30)
        assert masked(printed) == masked(output.text if output else ""), block.text


def test_the_readme_has_the_commands_of_the_tutorial() -> None:
    readme, tutorial = (commands(file.read_text()) for file in (README, TUTORIAL))
    clone = readme[0]
    resource_commands = commands(section(README, "## A resource of your own"))
    assert clone == tutorial[0]
    assert resource_commands[-1] == "make run"
    assert resource_commands[:-1] == tutorial[1 : len(resource_commands)]


def test_the_first_request_of_the_readme_returns_a_token(terminal: Terminal, log: Path) -> None:
    (request,) = [line for line in commands(README.read_text()) if line.startswith("curl")]
    assert '"access_token":"ey' in terminal.type(f"{request} --silent")
