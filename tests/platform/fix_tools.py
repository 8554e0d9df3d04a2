"""Programs that tests need, and a browser. The summary of a run names those that are missing."""

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

# The browser reads commands from descriptor 3, and writes results and events to 4.
EXEC = """
import os, sys
pipes = [os.dup(int(text)) for text in sys.argv[1:3]]
for pipe, descriptor in zip(pipes, (3, 4)):
    os.dup2(pipe, descriptor)
    os.set_inheritable(descriptor, True)
os.execv(sys.argv[3], sys.argv[3:])
"""

_skip_reasons: list[str] = []


def tool(name: str, package: str | None = None) -> str:
    """Return the path of a program. Skip the test when it is not installed."""
    path = find_program(name)
    if path is None:
        not_run(f"{name} is not installed (apt-get install {package or name})")
    return path


def not_run(reason: str) -> NoReturn:
    """Skip the test, and repeat the reason in the summary of the run."""
    reason = f"not run: {reason}"
    if reason not in _skip_reasons:
        _skip_reasons.append(reason)
    pytest.skip(reason)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print why tests were skipped."""
    for reason in _skip_reasons:
        terminalreporter.write_line(reason)


class Page:
    """One page of headless Chromium, driven over pipes (Chrome DevTools Protocol).

    `complaints` collects the errors of the console and uncaught exceptions.
    """

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._to, self._from = to_browser, from_browser
        self._pending = b""
        self._last_id = 0
        self._session: str | None = None
        self.complaints: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol, and return its result."""
        self._last_id += 1
        message: dict[str, Any] = {"id": self._last_id, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            reply = self._next_message()
            if reply.get("id") == self._last_id:
                assert "error" not in reply, reply
                result: dict[str, Any] = reply["result"]
                return result

    def run(self, script: str) -> Any:
        """Return the value of a JavaScript expression."""
        evaluation = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in evaluation, evaluation["exceptionDetails"]
        return evaluation["result"].get("value")

    def until(self, script: str, timeout: float = 20) -> Any:
        """Evaluate a JavaScript expression until its value is true, and return that value."""
        deadline = time.monotonic() + timeout
        while True:
            value = self.run(script)
            if value:
                return value
            assert time.monotonic() < deadline, f"timeout: {script} {self.complaints}"
            time.sleep(0.05)

    def _next_message(self) -> dict[str, Any]:
        while b"\0" not in self._pending:
            chunk = os.read(self._from, 1 << 20)
            assert chunk, "the browser has exited"
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
    """Run a browser with an empty page until the end of the block."""
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
