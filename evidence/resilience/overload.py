"""More is asked than there is room for: by all, or by one tenant of several.

A trigger makes each insert of a project take 0.1 s, so that five connections have room for fifty a
second, and the service and the load leave the processors idle.
"""

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

from evidence.harness.postgres import postgres
from evidence.harness.services import Service, serving
from evidence.resilience.load import Reply, Request, Stream, loading, percentile, tally
from evidence.resilience.open_loop import Flow, flows
from evidence.resilience.process_stats import resident_bytes
from evidence.resilience.scenario import Scenario, Trial, duration
from evidence.resilience.tenants import tenant

SECONDS = 0.1
SLOW = f"""
create function public.slow() returns trigger language plpgsql as $$
begin perform pg_catalog.pg_sleep({SECONDS}); return new; end $$;
create trigger slow before insert on public.projects for each row execute function public.slow();
"""
HEALTH = Request("GET", "/health")
# The tests share their processors with each other: half of the answers tell what they can.
SHARES = {False: (0.99, "p99"), True: (0.5, "p50")}
TIMES = 10
# Seconds. Most are refused at once; who gives way to a tenant with a shorter line has waited.
REFUSED = 0.5


@contextmanager
def _slow(trial: Trial) -> Iterator[Service]:
    with postgres(trial.folder) as database:
        database.execute(SLOW)
        with serving(trial.folder, database.app_url) as service:
            yield service


def overload(trial: Trial) -> None:
    """Many tenants ask ten times what there is room for."""
    seconds = 8 if trial.short else 60
    with _slow(trial) as service:
        tenants, number = [tenant(service.port) for _ in range(20)], count()
        run = secrets.token_hex(4)

        def create(_: int) -> Request:
            n = next(number)
            return tenants[n % len(tenants)].create(f"{run} {n}")

        began = time.monotonic()
        with loading(service.port, Stream("peak", create, 20)) as load:
            time.sleep(4 if trial.short else 10)
            replies = load.stop()
        peak = sum(r.status == 201 for r in replies) / (time.monotonic() - began)
        before = resident_bytes(service.pid)
        health = Flow("health", lambda _: HEALTH, 20)
        replies = flows(service.port, seconds, Flow("over", create, TIMES * peak), health)
        after = resident_bytes(service.pid)
        _goodput(trial, [r for r in replies if r.stream == "over"], peak, seconds)
        _health(trial, replies)
        trial.note(f"memory {(after - before) / 2**20:+.0f} MiB")
        trial.demand(after - before < 64 * 2**20, "the memory grows with what is asked")
        replies = flows(service.port, 5 if trial.short else 10, Flow("after", create, peak / 2))
        _normal(trial, replies)


def _goodput(trial: Trial, over: list[Reply], peak: float, seconds: float) -> None:
    served = [reply for reply in over if reply.status == 201]
    refused = [reply for reply in over if reply.status == 503 and "retry-after" in reply.headers]
    goodput = len(served) / seconds
    trial.note(f"peak {peak:.0f}/s, asked {len(over) / seconds:.0f}/s, served {goodput:.0f}/s")
    least = 0.6 if trial.short else 0.8
    trial.demand(goodput >= least * peak, f"goodput is {goodput / peak:.0%} of the peak")
    trial.note(f"served within {duration(percentile(served, 1.0))}")
    share, name = SHARES[trial.short]
    late = percentile(refused, share)
    trial.note(f"{len(refused):,} refused, {name} {duration(late)}")
    trial.demand(late <= REFUSED, f"refusals come late: {name} {duration(late)}")
    others = len(over) - len(served) - len(refused)
    trial.demand(not others, f"{others} neither served nor refused: {tally(over)}")


def _health(trial: Trial, replies: list[Reply]) -> None:
    health = [reply for reply in replies if reply.stream == "health"]
    share, name = SHARES[trial.short]
    trial.within(f"/health {name}", percentile(health, share), 0.1)
    trial.demand(all(reply.status == 200 for reply in health), f"/health: {tally(health)}")


def _normal(trial: Trial, replies: list[Reply]) -> None:
    began = min(reply.began for reply in replies)
    odd = [r.ended for r in replies if r.status != 201 or r.seconds > 3 * SECONDS]
    trial.within("normal again after", max(odd, default=began) - began, 5.0)


def fair(trial: Trial) -> None:
    """One tenant asks ten times what there is room for, another as before."""
    seconds = 6 if trial.short else 30
    with _slow(trial) as service:
        quiet, flood = (tenant(service.port, name) for name in ("Quiet", "Flood"))
        run, number = secrets.token_hex(4), count()
        few = Flow("quiet", lambda _: quiet.create(f"{run} {next(number)}"), 4)
        many = Flow("flood", lambda _: flood.create(f"{run} {next(number)}"), TIMES * 5 / SECONDS)
        alone = flows(service.port, seconds, few)
        together = flows(service.port, seconds, few, many)
        beside = [reply for reply in together if reply.stream == "quiet"]
        share, name = SHARES[trial.short]
        before, after = percentile(alone, share), percentile(beside, share)
        trial.note(f"{name} alone {duration(before)}, beside the flood {duration(after)}")
        trial.demand(after <= 2 * before, f"{name} is {after / before:.1f} times as long")
        others = [reply for reply in alone + beside if reply.status != 201]
        trial.demand(not others, f"of the quiet tenant: {tally(others)}")
        flooded = [reply for reply in together if reply.stream == "flood"]
        trial.note(f"the flood: {tally(flooded)}")
        trial.demand(any(r.status == 503 for r in flooded), "nothing was refused: no flood")


SCENARIOS = (
    Scenario(
        "overload",
        "10 times what there is room for: 80 % of the peak is served, 503 within 0.5 s for the "
        "rest, /health p99 100 ms, normal within 5 s",
        overload,
        limit=180.0,
        short=True,
    ),
    Scenario(
        "fair",
        "one tenant floods: the p99 of another is no more than twice what it was",
        fair,
        limit=150.0,
    ),
)
