"""Tools that are not Python packages: what is missing is said in one line, never in silence."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import pytest

from evidence.harness.processes import find_program

FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
FLAGS += ["--remote-debugging-pipe", "--no-first-run", "--window-size=1200,1400"]

# The browser reads its commands from descriptor 3 and writes to 4.
EXEC = """
import os, sys
pipes = [os.dup(int(text)) for text in sys.argv[1:3]]
for pipe, wanted in zip(pipes, (3, 4)):
    os.dup2(pipe, wanted)
    os.set_inheritable(wanted, True)
os.execv(sys.argv[3], sys.argv[3:])
"""

_missing: list[str] = []


def tool(name: str, package: str | None = None) -> str:
    """Return the path of a program; without it the test is not run, and the summary says so."""
    found = find_program(name)
    if found is None:
        not_run(f"{name} is not installed (apt-get install {package or name})")
    return found


def not_run(reason: str) -> NoReturn:
    """End the test without a verdict, which the summary says."""
    reason = f"not run: {reason}"
    if reason not in _missing:
        _missing.append(reason)
    pytest.skip(reason)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    for reason in _missing:
        terminalreporter.write_line(reason)


class Page:
    """One page of headless Chromium, driven over a pipe (DevTools protocol)."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._to, self._from = to_browser, from_browser
        self._pending = b""
        self._last = 0
        self._session: str | None = None
        self.complaints: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._last:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result

    def run(self, script: str) -> Any:
        """Return the value of a JavaScript expression."""
        done = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def until(self, script: str, patience: float = 20) -> Any:
        """Return the first true value of a JavaScript expression."""
        deadline = time.monotonic() + patience
        while True:
            value = self.run(script)
            if value:
                return value
            assert time.monotonic() < deadline, f"not in time: {script} {self.complaints}"
            time.sleep(0.05)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._pending:
            chunk = os.read(self._from, 1 << 20)
            assert chunk, "the browser has gone"
            self._pending += chunk
        line, _, self._pending = self._pending.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        match message.get("method"):
            case "Log.entryAdded" if message["params"]["entry"]["level"] == "error":
                self.complaints.append(message["params"]["entry"]["text"])
            case "Runtime.exceptionThrown":
                self.complaints.append(str(message["params"]["exceptionDetails"]))
        return message


@contextmanager
def page() -> Iterator[Page]:
    """Yield an empty page of a browser that ends with the block."""
    chromium = tool("chromium")
    commands, to_browser = os.pipe()
    from_browser, events = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        pipes = [str(commands), str(events)]
        process = subprocess.Popen(
            [sys.executable, "-c", EXEC, *pipes, chromium, *FLAGS, f"--user-data-dir={profile}"],
            pass_fds=(commands, events),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(commands)
        os.close(events)
        try:
            yield Page(to_browser, from_browser)
        finally:
            process.kill()
            process.wait()
            os.close(to_browser)
            os.close(from_browser)
