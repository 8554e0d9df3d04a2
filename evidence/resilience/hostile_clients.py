"""Clients that are slow, large or ambiguous, while another client is served."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from evidence.harness.postgres import postgres
from evidence.harness.processes import running
from evidence.harness.services import serving
from evidence.resilience.load import Reply, Stream, failed, loading, percentile, told
from evidence.resilience.process_stats import descriptors, resident_bytes
from evidence.resilience.scenario import Scenario, Trial, duration, require_program, until
from evidence.resilience.tenants import Tenant, tenant

CONNECTIONS = 500
# What one slow connection may hold in the service.
MOST_PER_CONNECTION = 64 * 1024
LARGE = 200 * 1024 * 1024


def slow(trial: Trial) -> None:
    """500 connections that send a head, or a body, a few bytes at a time."""
    program = require_program("slowhttptest")
    seconds = 8 if trial.short else 60
    with (
        postgres(trial.folder) as database,
        serving(trial.folder, database.app_url) as service,
    ):
        acme = tenant(service.port)
        # It knows no option for a token: without one, the body would not be waited for.
        token = f"application/json\r\nAuthorization: Bearer {acme.token}"
        for kind, options in (("heads", ["-H"]), ("bodies", ["-B", "-s", "100000", "-f", token])):
            before = resident_bytes(service.pid)
            url = f"http://127.0.0.1:{service.port}/orgs"
            command = [program, *options, "-c", str(CONNECTIONS), "-r", "200", "-i", "2"]
            command += ["-l", str(seconds), "-x", "10", "-p", "3", "-u", url]
            read = Stream("read", lambda _: acme.list(), 2, 0.02)
            log, began = trial.folder / f"slow-{kind}.log", time.monotonic()
            with loading(service.port, read) as load, memory(service.pid) as peak:
                with running(command, log) as slowly:
                    status, after = _slow_one(service.port, kind)
                    slowly.wait(seconds + 30)
                while time.monotonic() - began < seconds:  # it ends when all were hung up on
                    with running(command, log) as slowly:
                        slowly.wait(seconds + 30)
                replies = load.stop()
            _served(trial, kind, replies)
            trial.note(f"{status} after {duration(after)}")
            trial.demand(status == 408, f"slow {kind}: {status}, not 408")
            grown = peak() - before
            trial.note(f"memory +{grown / 1e6:.0f} MB")
            most = CONNECTIONS * MOST_PER_CONNECTION
            trial.demand(grown < most, f"slow {kind}: memory +{grown / 1e6:.0f} MB")
            gone = until(lambda: descriptors(service.pid) < 100, 15)
            trial.demand(gone < 15, f"slow {kind}: connections stay")


def _served(trial: Trial, kind: str, replies: list[Reply]) -> None:
    p99 = percentile(replies, 0.99)
    trial.note(f"slow {kind}: {len(failed(replies))} failed of {len(replies):,}")
    trial.note(f"p99 {duration(p99)}")
    trial.demand(not failed(replies), f"slow {kind}: {told(failed(replies))}")
    trial.demand(p99 < 0.5, f"slow {kind}: p99 {duration(p99)}")


def _slow_one(port: int, kind: str) -> tuple[int, float]:
    """Send one byte a second, and return how that ends: the status, and after how long."""
    begun = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
        if kind == "bodies":
            head = "POST /auth/token HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
            with_token = f"{head}Authorization: Bearer {tenant(port).token}\r\n"
            connection.sendall(f"{with_token}Content-Length: 100\r\n\r\n".encode())
        else:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ")
        while time.monotonic() - begun < 30:
            with suppress(TimeoutError):
                return _status(connection.recv(65536)), time.monotonic() - begun
            connection.sendall(b" ")
    return 0, time.monotonic() - begun


def refused(trial: Trial) -> None:
    """What is too large, too deep, or may be read in two ways."""
    with (
        postgres(trial.folder) as database,
        serving(trial.folder, database.app_url) as service,
    ):
        acme = tenant(service.port)
        wrong = 0
        for what, expected, sent in _shapes(acme):
            status = _answer(service.port, sent)
            wrong += status != expected
            trial.demand(status == expected, f"{what}: {status}, not {expected}")
        trial.note(f"{len(list(_shapes(acme))) - wrong} of {len(list(_shapes(acme)))} refused")
        trial.demand(service.health() == 200, "/health is not 200")
        for what in ("Content-Length", "chunked"):
            with memory(service.pid) as peak:
                before = resident_bytes(service.pid)
                status = _large(service.port, acme, chunked=what == "chunked")
                grown = peak() - before
            trial.note(f"200 MiB by {what}: {status}, memory +{grown / 2**20:.1f} MiB")
            trial.demand(status == 413, f"200 MiB by {what}: {status}")
            trial.demand(grown < 4 * 2**20, f"200 MiB by {what}: +{grown / 2**20:.1f} MiB")


def _shapes(acme: Tenant) -> Iterator[tuple[str, int, bytes]]:
    """Yield what it is, the status it must be answered with, and its bytes."""
    token = f"Authorization: Bearer {acme.token}\r\nContent-Type: application/json\r\n"
    post = f"POST /orgs HTTP/1.1\r\nHost: a\r\n{token}"
    deep = b'{"name": ' + b"[" * 65 + b"]" * 65 + b"}"
    yield "a body over 1 MiB", 413, f"{post}Content-Length: 1048577\r\n\r\n".encode()
    chunk = b"10001\r\n" + b"x" * 0x10001 + b"\r\n"
    yield (
        "chunks over 1 MiB",
        413,
        f"{post}Transfer-Encoding: chunked\r\n\r\n".encode() + chunk * 17,
    )
    yield (
        "fields over 16 KiB",
        431,
        f"GET / HTTP/1.1\r\nHost: a\r\nX: {'x' * 16384}\r\n\r\n".encode(),
    )
    many = "".join(f"X-{n}: x\r\n" for n in range(100))
    yield "over 100 fields", 431, f"GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n".encode()
    yield "JSON deeper than 64", 400, f"{post}Content-Length: {len(deep)}\r\n\r\n".encode() + deep
    yield (
        "two lengths",
        400,
        f"{post}Content-Length: 2\r\nContent-Length: 3\r\n\r\n{{}} ".encode(),
    )
    both = "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    yield "a length and chunks", 400, f"{post}{both}".encode()
    yield (
        "chunks and a length",
        400,
        f"{post}Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n".encode(),
    )
    yield "another coding", 400, f"{post}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n".encode()
    yield "no host", 400, b"GET / HTTP/1.1\r\n\r\n"
    yield "two hosts", 400, b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"
    yield "a blank before the colon", 400, b"GET / HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n"


def _answer(port: int, sent: bytes) -> int:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        with suppress(OSError):
            connection.sendall(sent)
        with suppress(OSError):
            return _status(connection.recv(65536))
    return 0


def _large(port: int, acme: Tenant, *, chunked: bool) -> int:
    """Send 200 MiB, as far as they are taken, and return the status."""
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {LARGE}"
    head = f"POST /orgs HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {acme.token}\r\n"
    head += f"Content-Type: application/json\r\n{framing}\r\n\r\n"
    piece = b"x" * 65536
    piece = b"10000\r\n" + piece + b"\r\n" if chunked else piece
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        with suppress(OSError):
            connection.sendall(head.encode())
            for _ in range(LARGE // 65536):
                connection.sendall(piece)
        with suppress(OSError):
            return _status(connection.recv(65536))
    return 0


def _status(received: bytes) -> int:
    words = received.split(b" ", 2)
    return int(words[1]) if len(words) > 1 and words[1].isdigit() else 0


@contextmanager
def memory(pid: int) -> Iterator["Peak"]:
    """Yield what tells how much a process held at the most since then."""
    peak = Peak(pid)
    try:
        yield peak
    finally:
        peak.stop()


class Peak:
    """Looks at a process a hundred times a second."""

    def __init__(self, pid: int) -> None:
        self._pid, self._most, self._stopping = pid, 0, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def __call__(self) -> int:
        return max(self._most, resident_bytes(self._pid))

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stopping.wait(0.01):
            self._most = max(self._most, resident_bytes(self._pid))


SCENARIOS = (
    Scenario(
        "slow",
        "500 slow heads, then bodies, 60 s each: 408 for them, 0 failed for others, memory bounded",
        slow,
        limit=300,
    ),
    Scenario(
        "hostile",
        "too large, too deep, ambiguous: 413, 431, 400; 200 MiB cost less than 4 MiB of memory",
        refused,
    ),
)
