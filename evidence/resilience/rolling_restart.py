"""Stopping: one process, replicas behind a proxy in turn, one that is killed."""

import itertools
import secrets
import signal
import threading
import time

from evidence.harness.postgres import Postgres, postgres
from evidence.harness.services import Service, serving
from evidence.resilience.haproxy import RETRIES, Haproxy, haproxy
from evidence.resilience.load import Reply, Request, Stream, failed, loading, once, percentile, told
from evidence.resilience.scenario import Scenario, Trial, until
from evidence.resilience.tenants import Tenant, tenant

# A statement that takes 0.3 s, in the unmodified service: the name of the project asks for it.
SLOW = """
create function slow() returns trigger language plpgsql as
    $$ begin perform pg_sleep(substr(new.name, 6, 4)::float); return new; end $$;
create trigger slow before insert on projects for each row
    when (new.name like 'slow %') execute function slow()"""
SLEEPING = "select from pg_stat_activity where wait_event = 'PgSleep'"


def stopping(trial: Trial) -> None:
    """SIGTERM with a request in flight that outlasts the drain."""
    with postgres(trial.folder) as database:
        database.execute(SLOW)
        with serving(trial.folder, database.app_url, DRAIN_SECONDS="1.1") as service:
            acme = tenant(service.port)
            flying = Flying(database, service.port, acme.create("slow 1.90"))
            service.send_signal(signal.SIGTERM)
            began = time.monotonic()
            trial.within("/ready 503 after", until(lambda: service.ready() == 503, 5), 0.3)
            trial.demand(service.health() == 200, "/health is not 200 while it drains")
            drained = once(service.port, acme.list())
            trial.demand(drained.status == 200, f"a request while it drains: {drained.status}")
            trial.demand(drained.headers.get("connection") == "close", "the connection is kept")
            refused = until(lambda: service.health() == 0, 5)
            trial.demand(refused < 5 and service.is_running, "it does not refuse before it ends")
            code = service.wait()
            trial.note(f"gone after {time.monotonic() - began:.1f} s, exit {code}")
            trial.note(f"in flight: {flying.status()}")
            trial.demand(flying.status() == 201, f"in flight: {flying.status()}")
            trial.demand(code == 0, f"exit {code}")
            logged = [line for line in service.log_lines() if '"projects.create"' in line]
            trial.demand(len(logged) == 1, "what was in flight is not in the log")


def cut_short(trial: Trial) -> None:
    """A second signal ends the drain, a third what is in flight."""
    with postgres(trial.folder) as database:
        database.execute(SLOW)
        with serving(trial.folder, database.app_url, DRAIN_SECONDS="60") as service:
            acme = tenant(service.port)
            flying = Flying(database, service.port, acme.create("slow 1.90"))
            service.send_signal(signal.SIGTERM)
            until(lambda: service.ready() == 503, 5)
            service.send_signal(signal.SIGTERM)
            trial.within("refuses after the second", until(lambda: service.health() == 0, 5), 1.0)
            began = time.monotonic()
            service.send_signal(signal.SIGTERM)
            code = service.wait()
            trial.within("gone after the third", time.monotonic() - began, 6.0)
            trial.note(f"exit {code}, in flight: {flying.status()}")
            trial.demand(code == 0, f"exit {code}")
            trial.demand(flying.status() in (0, 201, 503), f"in flight: {flying.status()}")


class Flying:
    """A request on a thread of its own, whose statement runs."""

    def __init__(self, database: Postgres, port: int, request: Request) -> None:
        self._reply: Reply | None = None
        self._thread = threading.Thread(target=self._send, args=(port, request), daemon=True)
        self._thread.start()
        until(lambda: bool(database.rows(SLEEPING)))

    def _send(self, port: int, request: Request) -> None:
        self._reply = once(port, request)

    def status(self) -> int:
        self._thread.join(20)
        return self._reply.status if self._reply else 0


def rolling(trial: Trial) -> None:
    """Replicas are replaced in turn under load, as a Deployment does it."""
    rollouts, least = (1, 200) if trial.short else (10, 10_000)
    with postgres(trial.folder) as database:
        database.execute(SLOW)
        replicas = [
            Service(trial.folder, database.app_url, DATABASE_CONNECTIONS="8") for _ in range(2)
        ]
        try:
            for replica in replicas:
                replica.start()
            with haproxy(trial.folder, [r.port for r in replicas]) as proxy:
                replies = _roll(trial, replicas, proxy, rollouts, least)
        finally:
            for replica in replicas:
                replica.stop()
    lost = failed(replies)
    trial.note(f"{len(lost)} failed of {len(replies):,}, p99 {_p99_ms(replies)} ms")
    trial.demand(not lost, f"failed: {told(lost)}")
    trial.demand(len(replies) >= least, f"only {len(replies)} requests")


def _roll(
    trial: Trial, replicas: list[Service], proxy: Haproxy, rollouts: int, least: int
) -> list[Reply]:
    acme, codes = tenant(proxy.port), set()
    with loading(proxy.port, *mixed(acme)) as load:
        for _ in range(rollouts):
            for replica in replicas:
                replica.send_signal(signal.SIGTERM)
                codes.add(replica.wait())
                replica.start()
                until(lambda: proxy.up() == 2)  # a Deployment waits for it, too
        until(lambda: len(load.replies) >= least, 60)
        replies = load.stop()
    trial.note(f"{rollouts} rollouts of 2, exits {sorted(codes)}")
    trial.demand(codes == {0}, f"exits {sorted(codes)}")
    return replies


def mixed(acme: Tenant) -> list[Stream]:
    """About 200 requests a second: kept and new connections, reads, writes, and slow writes."""
    run = secrets.token_hex(4)
    return [
        Stream("kept", lambda _: acme.list(), clients=4, pause=0.04),
        Stream("fresh", lambda _: acme.list(), clients=2, pause=0.04, fresh=True),
        Stream("write", lambda n: acme.create(f"{run} {n}"), clients=1, pause=0.04),
        Stream("slow", lambda n: acme.create(f"slow 0.30 {run} {n}"), clients=3, pause=0.02),
        Stream("slow fresh", lambda n: acme.create(f"slow 0.30 {run} {n}"), clients=1, fresh=True),
    ]


def _p99_ms(replies: list[Reply]) -> int:
    return round(percentile(replies, 0.99) * 1000)


def killing(trial: Trial) -> None:
    """SIGKILL of one of two replicas behind a proxy that may send a GET again."""
    with postgres(trial.folder) as database:
        replicas = [Service(trial.folder, database.app_url) for _ in range(2)]
        try:
            for replica in replicas:
                replica.start()
            ports = [r.port for r in replicas]
            with haproxy(trial.folder, ports, retries=RETRIES) as proxy:
                acme, number = tenant(proxy.port), itertools.count()
                write = Stream("write", lambda _: acme.create(f"W {next(number)}"), clients=2)
                read = Stream("read", lambda _: acme.list(), clients=4, pause=0.005)
                with loading(proxy.port, read, write) as load:
                    time.sleep(1)
                    killed = time.monotonic()
                    replicas[0].send_signal(signal.SIGKILL)
                    time.sleep(2 if trial.short else 4)
                    replies = load.stop()
        finally:
            for replica in replicas:
                replica.stop()
    lost = failed(replies)
    reads = [r for r in lost if r.stream == "read"]
    writes = [r for r in lost if r.stream == "write"]
    last = max((r.ended - killed for r in lost), default=0.0)
    trial.note(f"{len(reads)} reads and {len(writes)} writes failed of {len(replies):,}")
    trial.within("the last of them after", last, 2.0)
    trial.demand(not reads, f"reads failed: {told(reads)}")
    # Besides those in flight: what the dying process still accepted.
    trial.demand(len(writes) <= 8, f"writes failed: {told(writes)}")


SCENARIOS = (
    Scenario(
        "stop",
        "SIGTERM: /ready 503, serving on, then refusing; what is in flight finishes; exit 0",
        stopping,
        short=True,
    ),
    Scenario(
        "stop-twice",
        "a second signal ends the drain, a third what is in flight; exit 0",
        cut_short,
        short=True,
    ),
    Scenario(
        "roll",
        "10 rollouts of 2 replicas behind haproxy: 0 failed of 10,000 requests and more",
        rolling,
        limit=240,
    ),
    Scenario(
        "kill",
        "SIGKILL of one of two replicas: no GET fails, writes only while it dies, within 2 s",
        killing,
        short=True,
    ),
)
