"""Clients that do not read what they asked for."""

import re
import socket
import time
from contextlib import suppress

from evidence.harness.postgres import postgres
from evidence.harness.processes import running
from evidence.harness.services import serving
from evidence.resilience.hostile_clients import memory
from evidence.resilience.load import Request, Stream, failed, loading, percentile, told
from evidence.resilience.process_stats import descriptors, resident_bytes
from evidence.resilience.scenario import Scenario, Trial, duration, require_program, until
from evidence.resilience.tenants import tenant

CONTRACT = "/openapi.json"  # the largest answer
MIB = 2**20
ASK = f"GET {CONTRACT} HTTP/1.1\r\nHost: a\r\n\r\n".encode()


def slowly(trial: Trial) -> None:
    """slowhttptest reads the contract a few bytes at a time, again and again."""
    seconds, connections = (10, 100) if trial.short else (60, 500)
    program, log = require_program("slowhttptest"), trial.folder / "slow-read.log"
    with (
        postgres(trial.folder) as database,
        serving(trial.folder, database.app_url) as service,
    ):
        acme, before = tenant(service.port), resident_bytes(service.pid)
        command = [program, "-X", "-c", str(connections), "-r", "200", "-l", str(seconds)]
        command += ["-w", "8", "-y", "16", "-n", "3", "-z", "8", "-k", "10", "-p", "5"]
        command += ["-u", f"http://127.0.0.1:{service.port}{CONTRACT}"]
        health = Stream("health", lambda _: Request("GET", "/health"), 1, 0.05, fresh=True)
        read = Stream("read", lambda _: acme.list(), 2, 0.02, fresh=True)
        with loading(service.port, health, read) as load, memory(service.pid) as peak:
            began = time.monotonic()
            with running(command, log) as attack:
                attack.wait(seconds + 30)
            lasted = time.monotonic() - began
            replies = load.stop()
        said = re.findall(r"service available:[^YN]*(YES|NO)", log.read_text())
        trial.note(f"connected for {duration(lasted)}")
        trial.demand(lasted >= min(seconds, 25), "slowhttptest gave up at once")
        late = percentile([reply for reply in replies if reply.stream == "health"], 0.99)
        trial.within("/health p99", late, 0.1)
        trial.note(f"{len(failed(replies))} failed of {len(replies):,} of others")
        trial.demand(not failed(replies), f"of others: {told(failed(replies))}")
        trial.demand(bool(said) and "NO" not in said, "slowhttptest could not reach it")
        grown = (peak() - before) / MIB
        trial.note(f"memory {grown:+.0f} MiB")
        trial.demand(grown < 24 + connections * 0.5, f"memory {grown:+.0f} MiB")


def never(trial: Trial) -> None:
    """Clients ask again and again on one connection, and read nothing."""
    clients = 20 if trial.short else 200
    with (
        postgres(trial.folder) as database,
        serving(trial.folder, database.app_url) as service,
    ):
        before, held = descriptors(service.pid), []
        size = resident_bytes(service.pid)
        with memory(service.pid) as peak:
            for _ in range(clients):
                end = socket.create_connection(("127.0.0.1", service.port))
                end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                end.settimeout(0.2)
                held.append(end)
            for _ in range(20):  # no more at once than the service lets wait on a connection
                for end in held:
                    with suppress(OSError):
                        end.sendall(ASK * 8)
                time.sleep(0.25)
            until(lambda: descriptors(service.pid) >= before + clients)
            began = time.monotonic()
            until(lambda: descriptors(service.pid) <= before + 2, 45)
        left = descriptors(service.pid) - before
        trial.note(f"{clients} clients cut off within {duration(time.monotonic() - began)}")
        trial.demand(left <= 2, f"{left} of {clients} are still connected")
        grown = (peak() - size) / MIB
        trial.note(f"memory {grown:+.0f} MiB")
        trial.demand(grown < 24 + clients * 0.5, f"memory {grown:+.0f} MiB")
        trial.demand(service.health() == 200, "/health is not 200")
        for end in held:
            end.close()


SCENARIOS = (
    Scenario(
        "slow-read",
        "500 clients that read a few bytes at a time, 60 s: /health p99 100 ms, 0 of others fail",
        slowly,
    ),
    Scenario(
        "unread",
        "200 clients that read nothing: cut off after 30 s, memory bounded",
        never,
    ),
)
