"""Shutdown: of one process, of replicas behind a proxy in turn, and by SIGKILL."""

import itertools
import secrets
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from evidence.harness.postgres import Postgres, postgres
from evidence.harness.processes import wait_until
from evidence.harness.services import Service, serving
from evidence.resilience.haproxy import RETRY_GET, Haproxy, haproxy
from evidence.resilience.load import (
    Request,
    Response,
    Stream,
    failures,
    latency_percentile,
    loading,
    send_once,
    summarize,
)
from evidence.resilience.scenario import Scenario, Trial, format_duration, seconds_until
from evidence.resilience.tenants import Tenant, create_tenant

# An insert of a project named `slow 0.30 …` takes 0.30 s, without a change of the service.
SLOW_INSERTS = """
create function slow() returns trigger language plpgsql as
    $$ begin perform pg_sleep(substr(new.name, 6, 4)::float); return new; end $$;
create trigger slow before insert on projects for each row
    when (new.name like 'slow %') execute function slow()"""
SLEEPING = "select from pg_stat_activity where wait_event = 'PgSleep'"
# Longer than haproxy takes to notice that /ready is 503: two checks, 100 ms apart.
DRAIN_SECONDS = "1"
# Writes in flight, and those that the kernel still accepts for the dying process.
MAX_FAILED_WRITES = 8


def stop(trial: Trial) -> None:
    """Send SIGTERM while a request is in flight that outlasts the drain."""
    with postgres(trial.folder) as database:
        database.execute(SLOW_INSERTS)
        with serving(trial.folder, database.app_url, DRAIN_SECONDS="1.1") as service:
            tenant = create_tenant(service.port)
            in_flight = InFlight(database, service.port, tenant.create("slow 1.90"))
            service.send_signal(signal.SIGTERM)
            started = time.monotonic()
            not_ready = seconds_until(lambda: service.ready() == 503, 5)
            trial.expect_within("/ready 503 after", not_ready, 0.3)
            trial.expect(service.health() == 200, "/health is not 200 during the drain")
            drained = send_once(service.port, tenant.list())
            trial.expect(drained.status == 200, f"a request during the drain: {drained.status}")
            is_closing = drained.headers.get("connection") == "close"
            trial.expect(is_closing, "no `Connection: close` during the drain")
            is_closed = wait_until(lambda: service.health() == 0, 5)
            trial.expect(is_closed and service.is_running, "it accepts connections until it exits")
            code = service.wait()
            trial.record(f"exit {code} after {time.monotonic() - started:.1f} s")
            trial.record(f"in flight: {in_flight.status()}")
            trial.expect(in_flight.status() == 201, f"in flight: {in_flight.status()}")
            trial.expect(code == 0, f"exit {code}")
            logged = [line for line in service.log_lines() if '"projects.create"' in line]
            trial.expect(len(logged) == 1, "the log does not contain the request in flight")


def stop_twice(trial: Trial) -> None:
    """Send a second signal, which ends the drain, and a third, which ends requests in flight."""
    with postgres(trial.folder) as database:
        database.execute(SLOW_INSERTS)
        with serving(trial.folder, database.app_url, DRAIN_SECONDS="60") as service:
            tenant = create_tenant(service.port)
            in_flight = InFlight(database, service.port, tenant.create("slow 1.90"))
            service.send_signal(signal.SIGTERM)
            wait_until(lambda: service.ready() == 503, 5)
            service.send_signal(signal.SIGTERM)
            closed = seconds_until(lambda: service.health() == 0, 5)
            trial.expect_within("closed after the second", closed, 1.0)
            started = time.monotonic()
            service.send_signal(signal.SIGTERM)
            code = service.wait()
            trial.expect_within("exited after the third", time.monotonic() - started, 6.0)
            trial.record(f"exit {code}, in flight: {in_flight.status()}")
            trial.expect(code == 0, f"exit {code}")
            is_tolerable = in_flight.status() in (0, 201, 503)
            trial.expect(is_tolerable, f"in flight: {in_flight.status()}")


class InFlight:
    """A request on its own thread; its statement runs when the constructor returns."""

    def __init__(self, database: Postgres, port: int, request: Request) -> None:
        self._response: Response | None = None
        self._thread = threading.Thread(target=self._send, args=(port, request), daemon=True)
        self._thread.start()
        wait_until(lambda: bool(database.rows(SLEEPING)), 20)

    def _send(self, port: int, request: Request) -> None:
        self._response = send_once(port, request)

    def status(self) -> int:
        """Wait for the response and return its status."""
        self._thread.join(20)
        return self._response.status if self._response else 0


def roll(trial: Trial) -> None:
    """Replace replicas in turn under load, as a Deployment does."""
    rollouts, min_requests = (1, 200) if trial.is_short else (10, 10_000)
    with postgres(trial.folder) as database:
        database.execute(SLOW_INSERTS)
        with (
            _replicas(trial, database, DATABASE_CONNECTIONS="8") as replicas,
            haproxy(trial.folder, [replica.port for replica in replicas]) as proxy,
        ):
            responses = _roll(trial, replicas, proxy, rollouts, min_requests)
    failed, p99 = failures(responses), latency_percentile(responses, 0.99)
    trial.record(f"{len(failed)} failed of {len(responses):,}, p99 {format_duration(p99)}")
    trial.expect(not failed, f"failed: {summarize(failed)}")
    trial.expect(len(responses) >= min_requests, f"only {len(responses)} requests")


@contextmanager
def _replicas(trial: Trial, database: Postgres, **settings: str) -> Iterator[list[Service]]:
    """Run two replicas until the end of the block."""
    settings = {"DRAIN_SECONDS": DRAIN_SECONDS, **settings}
    with ExitStack() as stack:
        yield [
            stack.enter_context(serving(trial.folder, database.app_url, environment=settings))
            for _ in range(2)
        ]


def _roll(
    trial: Trial, replicas: list[Service], proxy: Haproxy, rollouts: int, min_requests: int
) -> list[Response]:
    tenant, codes = create_tenant(proxy.port), set()
    with loading(proxy.port, *_mixed_streams(tenant)) as load:
        for _ in range(rollouts):
            for replica in replicas:
                replica.send_signal(signal.SIGTERM)
                codes.add(replica.wait())
                replica.start()
                # A Deployment, too, waits until a new replica receives requests.
                wait_until(lambda: proxy.replicas_up() == len(replicas), 20)
        wait_until(lambda: len(load.responses) >= min_requests, 60)
        responses = load.stop()
    trial.record(f"{rollouts} rollouts of {len(replicas)}, exits {sorted(codes)}")
    trial.expect(codes == {0}, f"exits {sorted(codes)}")
    return responses


def _mixed_streams(tenant: Tenant) -> list[Stream]:
    """Return about 200 requests per second: kept and new connections, reads, slow writes."""
    run = secrets.token_hex(4)

    def slow(n: int) -> Request:
        return tenant.create(f"slow 0.30 {run} {n}")

    return [
        Stream("read", lambda _: tenant.list(), clients=4, pause=0.04),
        Stream("reconnect", lambda _: tenant.list(), clients=2, pause=0.04, reconnect=True),
        Stream("write", lambda n: tenant.create(f"{run} {n}"), clients=1, pause=0.04),
        Stream("slow", slow, clients=3, pause=0.02),
        Stream("slow reconnect", slow, clients=1, reconnect=True),
    ]


def kill(trial: Trial) -> None:
    """Kill one of two replicas behind a proxy that may retry a GET."""
    with (
        postgres(trial.folder) as database,
        _replicas(trial, database) as replicas,
        haproxy(trial.folder, [r.port for r in replicas], retries=RETRY_GET) as proxy,
    ):
        tenant, number = create_tenant(proxy.port), itertools.count()
        write = Stream("write", lambda _: tenant.create(f"W {next(number)}"), clients=2)
        read = Stream("read", lambda _: tenant.list(), clients=4, pause=0.005)
        with loading(proxy.port, read, write) as load:
            time.sleep(1)
            killed = time.monotonic()
            replicas[0].send_signal(signal.SIGKILL)
            time.sleep(2 if trial.is_short else 4)
            responses = load.stop()
    failed = failures(responses)
    reads = [r for r in failed if r.stream == "read"]
    writes = [r for r in failed if r.stream == "write"]
    trial.record(f"{len(reads)} reads and {len(writes)} writes failed of {len(responses):,}")
    last = max((r.ended - killed for r in failed), default=0.0)
    trial.expect_within("the last of them after", last, 2.0)
    trial.expect(not reads, f"reads failed: {summarize(reads)}")
    trial.expect(len(writes) <= MAX_FAILED_WRITES, f"writes failed: {summarize(writes)}")


SCENARIOS = (
    Scenario(
        "stop",
        "SIGTERM: /ready 503, still serving, then closed; requests in flight finish; exit 0",
        stop,
        in_tests=True,
    ),
    Scenario(
        "stop-twice",
        "a second signal ends the drain, a third ends requests in flight; exit 0",
        stop_twice,
        in_tests=True,
    ),
    Scenario(
        "roll",
        "10 rollouts of 2 replicas behind haproxy: 0 failed of at least 10,000 requests",
        roll,
        timeout=240,
    ),
    Scenario(
        "kill",
        "SIGKILL of one of 2 replicas: no GET fails; a few writes do, within 2 s",
        kill,
        in_tests=True,
    ),
)
