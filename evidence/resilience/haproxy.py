"""A proxy before replicas, as an ingress is one."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from evidence.harness.processes import HarnessError, free_port, last_line, running
from evidence.resilience.scenario import require_program, until

SETTINGS = """
global
    stats socket {folder}/admin.sock level admin
defaults
    mode http
    timeout connect 2s
    timeout client 30s
    timeout server 30s
frontend front
    bind 127.0.0.1:{port}
    default_backend replicas
backend replicas
    balance roundrobin
    option httpchk
    http-check send meth GET uri /ready ver HTTP/1.1 hdr Host covenant
    {retries}
    default-server check inter {interval}ms fall 2 rise 1
"""
# What a proxy may do by itself: try again what changes nothing, elsewhere.
RETRIES = """option redispatch 1
    retries 3
    retry-on conn-failure empty-response
    http-request disable-l7-retry unless METH_GET"""


@dataclass(frozen=True)
class Haproxy:
    """A proxy before replicas, which asks each for /ready."""

    port: int
    socket: Path

    def up(self) -> int:
        """Return how many replicas it sends requests to."""
        with socket.socket(socket.AF_UNIX) as admin:
            admin.connect(str(self.socket))
            admin.sendall(b"show stat\n")
            told = admin.makefile().read()
        lines = [line.split(",") for line in told.splitlines() if line.startswith("replicas,")]
        return sum(line[1].startswith("replica-") and line[17] == "UP" for line in lines)


@contextmanager
def haproxy(
    folder: Path, ports: list[int], *, retries: str = "", interval_ms: int = 100
) -> Iterator[Haproxy]:
    """Yield a haproxy that sends requests to all of these replicas."""
    settings, log = folder / "haproxy.cfg", folder / "haproxy.log"
    made = Haproxy(free_port(), folder / "admin.sock")
    text = SETTINGS.format(folder=folder, port=made.port, interval=interval_ms, retries=retries)
    text += "".join(f"    server replica-{p} 127.0.0.1:{p}\n" for p in ports)
    settings.write_text(text)
    with running([require_program("haproxy"), "-db", "-f", str(settings)], log):
        if until(made.socket.exists, 10) > 10 or until(lambda: made.up() == len(ports), 10) > 10:
            raise HarnessError(f"haproxy does not start: {last_line(log)}")
        yield made
