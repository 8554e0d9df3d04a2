"""A haproxy in front of replicas, in the role of an ingress."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from evidence.harness.processes import HarnessError, free_port, last_line, running, wait_until
from evidence.resilience.scenario import require_program

START_TIMEOUT_SECONDS = 10.0
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
# A proxy may retry a GET on another replica without the client's consent, but not a write.
RETRY_GET = """option redispatch 1
    retries 3
    retry-on conn-failure empty-response
    http-request disable-l7-retry unless METH_GET"""


@dataclass(frozen=True)
class Haproxy:
    """A running proxy, which checks /ready of each replica."""

    port: int
    socket: Path

    def replicas_up(self) -> int:
        """Return the number of replicas that receive requests."""
        with socket.socket(socket.AF_UNIX) as admin:
            admin.connect(str(self.socket))
            admin.sendall(b"show stat\n")
            output = admin.makefile().read()
        rows = [line.split(",") for line in output.splitlines() if line.startswith("replicas,")]
        return sum(row[1].startswith("replica-") and row[17] == "UP" for row in rows)


@contextmanager
def haproxy(
    folder: Path, ports: list[int], *, retries: str = "", interval_ms: int = 100
) -> Iterator[Haproxy]:
    """Yield a proxy in front of the replicas on `ports`, all of them up. Raises `HarnessError`."""
    settings, log = folder / "haproxy.cfg", folder / "haproxy.log"
    proxy = Haproxy(free_port(), folder / "admin.sock")
    text = SETTINGS.format(folder=folder, port=proxy.port, interval=interval_ms, retries=retries)
    text += "".join(f"    server replica-{p} 127.0.0.1:{p}\n" for p in ports)
    settings.write_text(text)
    with running([require_program("haproxy"), "-db", "-f", str(settings)], log):
        is_up = wait_until(proxy.socket.exists, START_TIMEOUT_SECONDS) and wait_until(
            lambda: proxy.replicas_up() == len(ports), START_TIMEOUT_SECONDS
        )
        if not is_up:
            raise HarnessError(f"haproxy does not start: {last_line(log)}")
        yield proxy
