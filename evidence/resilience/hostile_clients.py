"""Slow, oversized and ambiguous requests, while the service has other clients."""

import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Literal

from evidence.harness.postgres import postgres
from evidence.harness.process_stats import open_descriptors, peak_memory, resident_bytes
from evidence.harness.processes import running, wait_until
from evidence.harness.services import Service, serving
from evidence.resilience.load import (
    Response,
    Stream,
    failures,
    latency_percentile,
    loading,
    summarize,
)
from evidence.resilience.scenario import Scenario, Trial, format_duration, require_program
from evidence.resilience.tenants import Tenant, create_tenant

CONNECTIONS = 500
MAX_BYTES_PER_CONNECTION = 64 * 1024
LARGE_BYTES = 200 * 1024 * 1024
MAX_GROWTH_MIB = 4
MIB = 2**20

Part = Literal["heads", "bodies"]


def slow_requests(trial: Trial) -> None:
    """Open 500 connections that send a request head, then a body, a few bytes at a time."""
    program = require_program("slowhttptest")
    with (
        postgres(trial.folder) as database,
        serving(trial.folder, database.app_url) as service,
    ):
        tenant = create_tenant(service.port)
        # slowhttptest has no option for a header, and without a token no body is read.
        content_type = f"application/json\r\nAuthorization: Bearer {tenant.token}"
        _attack(trial, service, tenant, "heads", [program, "-H"])
        bodies = [program, "-B", "-s", "100000", "-f", content_type]
        _attack(trial, service, tenant, "bodies", bodies)


def _attack(trial: Trial, service: Service, tenant: Tenant, part: Part, program: list[str]) -> None:
    seconds = 8 if trial.is_short else 60
    before = resident_bytes(service.pid)
    command = [*program, "-c", str(CONNECTIONS), "-r", "200", "-i", "2", "-l", str(seconds)]
    command += ["-x", "10", "-p", "3", "-u", f"http://127.0.0.1:{service.port}/orgs"]
    log, started = trial.folder / f"slow-{part}.log", time.monotonic()
    read = Stream("read", lambda _: tenant.list(), 2, 0.02)
    with loading(service.port, read) as load, peak_memory(service.pid) as peak:
        with running(command, log) as attack:
            status, ended = _send_slowly(service.port, tenant, part)
            attack.wait(seconds + 30)
        # It exits once the service has closed all its connections: start it again.
        while time.monotonic() - started < seconds:
            with running(command, log) as attack:
                attack.wait(seconds + 30)
        responses = load.stop()
    _expect_others_served(trial, part, responses)
    trial.record(f"{status} after {format_duration(ended)}")
    trial.expect(status == 408, f"slow {part}: status {status}, expected 408")
    growth = peak.bytes() - before
    trial.record(f"memory +{growth / 1e6:.0f} MB")
    is_bounded = growth < CONNECTIONS * MAX_BYTES_PER_CONNECTION
    trial.expect(is_bounded, f"slow {part}: memory +{growth / 1e6:.0f} MB")
    is_closed = wait_until(lambda: open_descriptors(service.pid) < 100, 15)
    trial.expect(is_closed, f"slow {part}: connections stay open")


def _expect_others_served(trial: Trial, part: Part, responses: list[Response]) -> None:
    failed, p99 = failures(responses), latency_percentile(responses, 0.99)
    trial.record(f"slow {part}: {len(failed)} failed of {len(responses):,}")
    trial.record(f"p99 {format_duration(p99)}")
    trial.expect(not failed, f"slow {part}: {summarize(failed)}")
    trial.expect(p99 < 0.5, f"slow {part}: p99 {format_duration(p99)}")


def _send_slowly(port: int, tenant: Tenant, part: Part) -> tuple[int, float]:
    """Send one byte a second; return the status that ends this, and after how many seconds."""
    started = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
        if part == "bodies":
            connection.sendall(
                b"POST /auth/token HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
                b"Authorization: Bearer %s\r\nContent-Length: 100\r\n\r\n" % tenant.token.encode()
            )
        else:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ")
        while time.monotonic() - started < 30:
            with suppress(TimeoutError):
                return _status(connection.recv(65536)), time.monotonic() - started
            connection.sendall(b" ")
    return 0, time.monotonic() - started


def rejected_requests(trial: Trial) -> None:
    """Send requests that are too large, too deep, or ambiguous."""
    with (
        postgres(trial.folder) as database,
        serving(trial.folder, database.app_url) as service,
    ):
        tenant = create_tenant(service.port)
        rejected, requests = 0, list(_bad_requests(tenant))
        for what, expected, request in requests:
            status = _send(service.port, request)
            rejected += status == expected
            trial.expect(status == expected, f"{what}: status {status}, expected {expected}")
        trial.record(f"{rejected} of {len(requests)} rejected")
        trial.expect(service.health() == 200, "/health is not 200")
        for framing in ("Content-Length", "chunked"):
            with peak_memory(service.pid) as peak:
                before = resident_bytes(service.pid)
                status = _send_large(service.port, tenant, chunked=framing == "chunked")
                growth = (peak.bytes() - before) / MIB
            measurement = f"200 MiB, {framing}: {status}, memory +{growth:.1f} MiB"
            trial.record(measurement)
            trial.expect(status == 413 and growth < MAX_GROWTH_MIB, measurement)


def _bad_requests(tenant: Tenant) -> Iterator[tuple[str, int, bytes]]:
    """Yield a description, the expected status, and the bytes of each request."""
    token = f"Authorization: Bearer {tenant.token}\r\nContent-Type: application/json\r\n"
    get = b"GET / HTTP/1.1\r\n"
    post = f"POST /orgs HTTP/1.1\r\nHost: a\r\n{token}".encode()
    chunk = b"10001\r\n" + b"x" * 0x10001 + b"\r\n"
    chunked, end = b"Transfer-Encoding: chunked\r\n", b"\r\n0\r\n\r\n"
    fields = "".join(f"X-{n}: x\r\n" for n in range(100)).encode()
    deep = b'{"name": ' + b"[" * 65 + b"]" * 65 + b"}"
    yield "a body over 1 MiB", 413, post + b"Content-Length: 1048577\r\n\r\n"
    yield "chunks over 1 MiB", 413, post + chunked + b"\r\n" + chunk * 17
    yield "fields over 16 KiB", 431, get + b"Host: a\r\nX: " + b"x" * 16384 + b"\r\n\r\n"
    yield "over 100 fields", 431, get + b"Host: a\r\n" + fields + b"\r\n"
    yield "JSON deeper than 64", 400, post + b"Content-Length: %d\r\n\r\n" % len(deep) + deep
    yield "two lengths", 400, post + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{} "
    yield "a length and chunks", 400, post + b"Content-Length: 2\r\n" + chunked + end
    yield "chunks and a length", 400, post + chunked + b"Content-Length: 2\r\n" + end
    yield "an unknown coding", 400, post + b"Transfer-Encoding: xchunked\r\n" + end
    yield "no Host", 400, get + b"\r\n"
    yield "two Hosts", 400, get + b"Host: a\r\nHost: b\r\n\r\n"
    yield "a space before the colon", 400, get + b"Host: a\r\nX : y\r\n\r\n"


def _send(port: int, request: bytes) -> int:
    """Return the status of the response, 0 without one."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        with suppress(OSError):
            connection.sendall(request)
        with suppress(OSError):
            return _status(connection.recv(65536))
    return 0


def _send_large(port: int, tenant: Tenant, *, chunked: bool) -> int:
    """Send 200 MiB until the service stops reading, and return the status."""
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {LARGE_BYTES}"
    head = f"POST /orgs HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {tenant.token}\r\n"
    head += f"Content-Type: application/json\r\n{framing}\r\n\r\n"
    piece = b"x" * 65536
    piece = b"10000\r\n" + piece + b"\r\n" if chunked else piece
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        with suppress(OSError):
            connection.sendall(head.encode())
            for _ in range(LARGE_BYTES // 65536):
                connection.sendall(piece)
        with suppress(OSError):
            return _status(connection.recv(65536))
    return 0


def _status(response: bytes) -> int:
    words = response.split(b" ", 2)
    return int(words[1]) if len(words) > 1 and words[1].isdigit() else 0


SCENARIOS = (
    Scenario(
        "slow",
        "500 slow heads, then bodies, 60 s each: 408, 0 failed for other clients, memory bounded",
        slow_requests,
        timeout=300,
    ),
    Scenario(
        "hostile",
        "too large, too deep, ambiguous: 413, 431, 400; 200 MiB cost less than 4 MiB of memory",
        rejected_requests,
    ),
)
