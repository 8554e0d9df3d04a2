"""Clients that read their responses slowly, or not at all."""

import re
import socket
import time
from contextlib import suppress

from evidence.harness.postgres import postgres
from evidence.harness.process_stats import open_descriptors, peak_memory, resident_bytes
from evidence.harness.processes import running, wait_until
from evidence.harness.services import serving
from evidence.resilience.load import (
    Request,
    Stream,
    failures,
    latency_percentile,
    loading,
    summarize,
)
from evidence.resilience.scenario import (
    Scenario,
    Trial,
    format_duration,
    require_program,
    seconds_until,
)
from evidence.resilience.tenants import create_tenant

CONTRACT = "/openapi.json"  # the largest response
REQUEST = f"GET {CONTRACT} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
# No more at once than the service accepts while earlier responses on a connection are unsent.
PIPELINED_REQUESTS = 8
MIB = 2**20
MAX_GROWTH_MIB, MAX_GROWTH_PER_CONNECTION_MIB = 24, 0.5


def slow_readers(trial: Trial) -> None:
    """Let slowhttptest read the contract a few bytes at a time, again and again."""
    seconds, connections = (10, 100) if trial.is_short else (60, 500)
    program, log = require_program("slowhttptest"), trial.folder / "slow-read.log"
    with (
        postgres(trial.folder) as database,
        serving(trial.folder, database.app_url) as service,
    ):
        tenant, before = create_tenant(service.port), resident_bytes(service.pid)
        command = [program, "-X", "-c", str(connections), "-r", "200", "-l", str(seconds)]
        command += ["-w", "8", "-y", "16", "-n", "3", "-z", "8", "-k", "10", "-p", "5"]
        command += ["-u", f"http://127.0.0.1:{service.port}{CONTRACT}"]
        health = Stream("health", lambda _: Request("GET", "/health"), 1, 0.05, reconnect=True)
        read = Stream("read", lambda _: tenant.list(), 2, 0.02, reconnect=True)
        with loading(service.port, health, read) as load, peak_memory(service.pid) as peak:
            started = time.monotonic()
            with running(command, log) as attack:
                attack.wait(seconds + 30)
            lasted = time.monotonic() - started
            responses = load.stop()
        trial.record(f"attacked for {format_duration(lasted)}")
        trial.expect(lasted >= min(seconds, 25), "slowhttptest gave up early")
        p99 = latency_percentile([r for r in responses if r.stream == "health"], 0.99)
        trial.expect_within("/health p99", p99, 0.1)
        failed = failures(responses)
        trial.record(f"{len(failed)} failed of {len(responses):,} of other clients")
        trial.expect(not failed, f"other clients: {summarize(failed)}")
        availability = re.findall(r"service available:[^YN]*(YES|NO)", log.read_text())
        is_available = availability and "NO" not in availability
        trial.expect(is_available, "slowhttptest could not connect at times")
        _expect_bounded_memory(trial, peak.bytes() - before, connections)


def clients_that_never_read(trial: Trial) -> None:
    """Pipeline requests on many connections, and read no response."""
    clients = 20 if trial.is_short else 200
    with (
        postgres(trial.folder) as database,
        serving(trial.folder, database.app_url) as service,
    ):
        descriptors, memory = open_descriptors(service.pid), resident_bytes(service.pid)
        connections = []
        with peak_memory(service.pid) as peak:
            for _ in range(clients):
                connection = socket.create_connection(("127.0.0.1", service.port))
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                connection.settimeout(0.2)
                connections.append(connection)
            for _ in range(20):
                for connection in connections:
                    with suppress(OSError):
                        connection.sendall(REQUEST * PIPELINED_REQUESTS)
                time.sleep(0.25)
            wait_until(lambda: open_descriptors(service.pid) >= descriptors + clients, 20)
            closed = seconds_until(lambda: open_descriptors(service.pid) <= descriptors + 2, 45)
        remaining = open_descriptors(service.pid) - descriptors
        trial.record(f"{clients} clients disconnected within {format_duration(closed)}")
        trial.expect(remaining <= 2, f"{remaining} of {clients} are still connected")
        _expect_bounded_memory(trial, peak.bytes() - memory, clients)
        trial.expect(service.health() == 200, "/health is not 200")
        for connection in connections:
            connection.close()


def _expect_bounded_memory(trial: Trial, growth_bytes: int, connections: int) -> None:
    growth = growth_bytes / MIB
    trial.record(f"memory {growth:+.0f} MiB")
    maximum = MAX_GROWTH_MIB + connections * MAX_GROWTH_PER_CONNECTION_MIB
    trial.expect(growth < maximum, f"memory {growth:+.0f} MiB, limit {maximum:.0f} MiB")


SCENARIOS = (
    Scenario(
        "slow-read",
        "500 clients that read a few bytes at a time, 60 s: /health p99 100 ms, 0 of others fail",
        slow_readers,
    ),
    Scenario(
        "unread",
        "200 clients that never read: disconnected after 30 s, memory bounded",
        clients_that_never_read,
    ),
)
