"""Redis, which counts requests for all replicas, goes away and comes back."""

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from evidence.harness.postgres import postgres
from evidence.harness.processes import free_port, running
from evidence.harness.services import Service, serving
from evidence.resilience.load import Request, Stream, failed, loading, once, percentile, told
from evidence.resilience.scenario import Scenario, Trial, duration, require_program, until
from evidence.resilience.tenants import tenant

GUESTS = 30


def away(trial: Trial) -> None:
    """Redis is killed under load; each replica counts for itself until it is back."""
    with postgres(trial.folder) as database, redis(trial.folder) as server:
        limit = f"{GUESTS}/minute"
        with (
            serving(trial.folder, database.app_url, REDIS_URL=server.url, GUEST_LIMIT=limit) as one,
            serving(
                trial.folder, database.app_url, REDIS_URL=server.url, GUEST_LIMIT=limit
            ) as other,
        ):
            until(lambda: _together(one) and _together(other), 5)
            before = _said(one, "Redis is away")
            acme = tenant(one.port)
            taken = _guests(one) + _guests(other) + 1
            trial.note(f"{taken} guests let in by two replicas")
            trial.demand(taken == GUESTS, f"{taken} guests let in together, not {GUESTS}")
            with loading(one.port, Stream("read", lambda _: acme.list(), 4, 0.01)) as load:
                time.sleep(0.5)
                server.kill()
                alone = _guests(one)
                _guests(other)
                trial.note(f"{alone} by one while Redis is away")
                trial.demand(alone == GUESTS, f"{alone} guests let in without Redis")
                trial.demand(one.ready() == 200, "/ready is not 200 without Redis")
                time.sleep(1)
                server.start()
                # Redis starts empty, and is the one that counts again.
                back = until(lambda: _together(one) and _together(other), 10)
                trial.within("counts for all again after", back, 5.0)
                replies = load.stop()
            said = _said(one, "Redis is away") - before
            trial.demand(said == 1, f"{said} log lines say that Redis is away")
            again = _guests(one) + _guests(other)
            trial.note(f"{again} by both after it")
            trial.demand(again == GUESTS, f"{again} guests let in after Redis came back")
    trial.note(f"{len(failed(replies))} of {len(replies):,} reads failed")
    trial.note(f"p99 {duration(percentile(replies, 0.99))}")
    trial.demand(not failed(replies), f"reads: {told(failed(replies))}")


def _together(service: Service) -> bool:
    """Whether the last that it said of Redis is that it is there."""
    return _said(service, "Redis is away") == _said(service, "Redis is back")


def _said(service: Service, words: str) -> int:
    return sum(words in line for line in service.log_lines())


def _guests(service: Service) -> int:
    """Return how many of more than enough guests are let in."""
    request = Request("POST", "/auth/guest")
    return sum(once(service.port, request).status == 201 for _ in range(GUESTS + 10))


class Redis:
    """A server that can be killed and started again on its port, and forgets everything."""

    def __init__(self, folder: Path) -> None:
        secret, port = secrets.token_hex(16), free_port()
        options = f"--bind 127.0.0.1 --port {port} --requirepass {secret} --appendonly no"
        self.url = f"redis://:{secret}@127.0.0.1:{port}/0"
        self._command = [require_program("redis-server"), *options.split(), "--save", ""]
        self._command += ["--dir", str(folder)]
        self._log = folder / "redis.log"
        self._running = running(self._command, self._log)

    def start(self) -> None:
        self._running = running(self._command, self._log)
        self._process = self._running.__enter__()
        until(lambda: "Ready to accept connections" in self._log.read_text(), 10)

    def kill(self) -> None:
        self._process.kill()
        self.stop()

    def stop(self) -> None:
        self._running.__exit__(None, None, None)


@contextmanager
def redis(folder: Path) -> Iterator[Redis]:
    server = Redis(folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()


SCENARIOS = (
    Scenario(
        "redis",
        "Redis away: no read fails, each replica counts for itself; back, it counts within 5 s",
        away,
    ),
)
