"""Redis, which counts requests for all replicas, goes away and comes back."""

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from evidence.harness.postgres import postgres
from evidence.harness.processes import free_port, running, wait_until
from evidence.harness.services import Service, serving
from evidence.resilience.load import (
    Request,
    Stream,
    failures,
    latency_percentile,
    loading,
    send_once,
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

GUESTS_PER_MINUTE = 30
UNAVAILABLE, READY = '"event":"redis_unavailable"', '"event":"redis_ready"'


def redis_outage(trial: Trial) -> None:
    """Kill Redis under load. Each replica counts on its own until Redis is back."""
    with postgres(trial.folder) as database, redis(trial.folder) as server:
        settings = {"REDIS_URL": server.url, "GUEST_LIMIT": f"{GUESTS_PER_MINUTE}/minute"}
        with (
            serving(trial.folder, database.app_url, environment=settings) as first,
            serving(trial.folder, database.app_url, environment=settings) as second,
        ):
            wait_until(lambda: _uses_redis(first) and _uses_redis(second), 5)
            lines_before = _count_lines(first, UNAVAILABLE)
            tenant = create_tenant(first.port)  # the first guest
            guests = 1 + _accepted_guests(first) + _accepted_guests(second)
            _expect_guests(trial, guests, "accepted by both together")
            with loading(first.port, Stream("read", lambda _: tenant.list(), 4, 0.01)) as load:
                time.sleep(0.5)
                server.kill()
                _expect_guests(trial, _accepted_guests(first), "by one without Redis")
                _accepted_guests(second)
                trial.expect(first.ready() == 200, "/ready is not 200 without Redis")
                time.sleep(1)
                server.start()
                recovery = seconds_until(lambda: _uses_redis(first) and _uses_redis(second), 10)
                trial.expect_within("counted in Redis again after", recovery, 5.0)
                responses = load.stop()
            lines = _count_lines(first, UNAVAILABLE) - lines_before
            trial.expect(lines == 1, f"{lines} log lines `redis_unavailable`, expected 1")
            # Redis starts with empty counters.
            guests = _accepted_guests(first) + _accepted_guests(second)
            _expect_guests(trial, guests, "by both afterwards")
    failed, p99 = failures(responses), latency_percentile(responses, 0.99)
    trial.record(f"{len(failed)} of {len(responses):,} reads failed, p99 {format_duration(p99)}")
    trial.expect(not failed, f"reads: {summarize(failed)}")


def _uses_redis(service: Service) -> bool:
    """Return whether the log does not end with an outage."""
    return _count_lines(service, UNAVAILABLE) == _count_lines(service, READY)


def _count_lines(service: Service, text: str) -> int:
    return sum(text in line for line in service.log_lines())


def _accepted_guests(service: Service) -> int:
    """Sign in more guests than the limit, and return how many are accepted."""
    request = Request("POST", "/auth/guest")
    statuses = [send_once(service.port, request).status for _ in range(GUESTS_PER_MINUTE + 10)]
    return statuses.count(201)


def _expect_guests(trial: Trial, guests: int, where: str) -> None:
    measurement = f"{guests} guests {where}"
    trial.record(measurement)
    trial.expect(guests == GUESTS_PER_MINUTE, f"{measurement}, expected {GUESTS_PER_MINUTE}")


class Redis:
    """A server without persistence that can be killed and started again on its port."""

    def __init__(self, folder: Path) -> None:
        password, port = secrets.token_hex(16), free_port()
        options = f"--bind 127.0.0.1 --port {port} --requirepass {password} --appendonly no"
        self.url = f"redis://:{password}@127.0.0.1:{port}/0"
        self._command = [require_program("redis-server"), *options.split(), "--save", ""]
        self._command += ["--dir", str(folder)]
        self._log = folder / "redis.log"
        self._running = running(self._command, self._log)

    def start(self) -> None:
        """Start, and wait until it accepts connections."""
        starts = self._log.read_text().count("Ready to accept") if self._log.exists() else 0
        self._running = running(self._command, self._log)
        self._process = self._running.__enter__()
        wait_until(lambda: self._log.read_text().count("Ready to accept") > starts, 10)

    def kill(self) -> None:
        self._process.kill()
        self.stop()

    def stop(self) -> None:
        self._running.__exit__(None, None, None)


@contextmanager
def redis(folder: Path) -> Iterator[Redis]:
    """Run a Redis until the end of the block. Raises `NotRun`."""
    server = Redis(folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()


SCENARIOS = (
    Scenario(
        "redis",
        "Redis goes away: no read fails, each replica counts alone; back, shared within 5 s",
        redis_outage,
    ),
)
