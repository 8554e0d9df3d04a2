"""`x-rate-limit`: who is counted, what an answer tells of it, and Redis that comes and goes."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from service.limits.rate_counters import MAX_KEYS, MemoryCounters, Rate
from tests.platform.fix_postgres import Database
from tests.platform.fix_redis import PASSWORD, redis
from tests.platform.fix_service import Service, serving, tenant, until

COMMAND = ("-m", "tests.platform.app_with_faults")


def test_never_more_than_the_limit_in_any_window() -> None:
    memory, rate, granted = MemoryCounters(), Rate(10, 60), []
    for tick in range(4000):
        now = tick * 0.13
        if memory.take("a", rate, now).fits:
            granted.append(now)
    assert len(granted) >= 10 * 520 / 61 - 10
    for n, begun in enumerate(granted):
        assert sum(begun <= other < begun + 60 for other in granted[n:]) <= 10


def test_what_is_left_and_when_there_is_more() -> None:
    memory, rate = MemoryCounters(), Rate(3, 60)
    assert [memory.take("a", rate, 0.5).left for _ in range(3)] == [2, 1, 0]
    refused = memory.take("a", rate, 30.5)
    assert (refused.fits, refused.left) == (False, 0)
    assert memory.take("b", rate, 30.5).left == 2
    assert not memory.take("a", rate, 30.4 + refused.wait).fits
    assert memory.take("a", rate, 30.5 + refused.wait).fits


def test_the_counts_of_too_many_keys_are_forgotten_those_asked_longest_ago_first() -> None:
    memory, rate = MemoryCounters(), Rate(1, 60)
    for n in range(MAX_KEYS):
        memory.take(str(n), rate, 1.0)
        if n % 1000 == 0:
            memory.take("first", rate, 1.0)
    for n in range(2000):
        memory.take(f"more {n}", rate, 1.0)
    assert not memory.take("first", rate, 1.0).fits
    assert memory.take("5", rate, 1.0).fits


def test_an_answer_tells_what_is_left_also_where_it_is_a_problem(planted: Service) -> None:
    with planted.http() as client:
        answers = [client.get("/planted/limited/client", params={"n": n}) for n in range(4)]
    assert [answer.status_code for answer in answers] == [200, 400, 400, 429]
    left = [answer.headers["ratelimit"].partition(";t=") for answer in answers]
    assert [first for first, *_ in left] == [f'"planted.by_client";r={n}' for n in (2, 1, 0, 0)]
    assert all(1 <= int(seconds) <= 61 for *_, seconds in left)
    assert {answer.headers["ratelimit-policy"] for answer in answers} == {
        '"planted.by_client";q=3;w=60'
    }
    assert answers[-1].headers["retry-after"] == left[-1][2]
    with planted.http() as client:
        assert "ratelimit" not in client.get("/health").headers


def test_tenants_are_counted_apart_and_each_operation_for_itself(planted: Service) -> None:
    with tenant(planted, "Acme") as acme, tenant(planted, "Rival") as rival:
        for one in (acme, rival):
            statuses = [one.get("/planted/limited/tenant").status_code for _ in range(4)]
            assert statuses == [200, 200, 200, 429]
        assert acme.get(f"/orgs/{acme.org}").status_code == 200


@contextmanager
def replicas(folder: Path, database: Database, url: str, count: int = 2) -> Iterator[list[Service]]:
    """Services with the operations of tests/platform/faults/ that count in the Redis of `url`."""
    with ExitStack() as stack:
        services = []
        for n in range(count):
            own = folder / str(n)
            own.mkdir()
            settings = {"PLANT_FILE": str(own / "contract.json"), "REDIS_URL": url}
            settings["KEYS_DIR"] = str(folder / "keys")
            services.append(
                stack.enter_context(
                    serving(own, database.app_url, command=COMMAND, ready=False, **settings)
                )
            )
        for service in services:
            until(lambda service=service: _status(service, "/ready") == 200)
        yield services


def _status(service: Service, path: str) -> int:
    try:
        return httpx.get(service.url + path, timeout=10).status_code
    except httpx.TransportError:
        return 0


def _ask(service: Service, kind: str = "shared") -> int:
    return _status(service, f"/planted/limited/{kind}")


def test_replicas_share_a_count_in_one_round_trip_each(tmp_path: Path, database: Database) -> None:
    with redis() as server, replicas(tmp_path, database, server.url) as services:
        before = server.calls("evalsha")
        with ThreadPoolExecutor(8) as pool:
            statuses = list(pool.map(lambda n: _ask(services[n % 2]), range(60)))
        assert sorted(statuses) == [200] * 20 + [429] * 40
        assert server.calls("evalsha") - before == 60
        assert _ask(services[0]) == 429
        server.ask("FLUSHALL")
        assert _ask(services[0]) == 200
        assert _ask(services[1], "closed") == 200


def test_redis_that_is_killed_takes_nothing_down_and_is_back_at_once(
    tmp_path: Path, database: Database
) -> None:
    with redis() as server, replicas(tmp_path, database, server.url, 1) as (service,):
        assert (_ask(service), _ask(service, "closed")) == (200, 200)
        server.kill()
        began = time.monotonic()
        with ThreadPoolExecutor(8) as pool:
            statuses = list(pool.map(lambda _: _ask(service), range(60)))
        assert time.monotonic() - began < 5
        # This process counts for itself meanwhile.
        assert sorted(statuses) == [200] * 20 + [429] * 40
        with service.http() as client:
            refused = client.get("/planted/limited/closed")
        assert refused.json()["code"] == "unavailable"
        assert refused.headers["retry-after"] == "1"
        until(lambda: '"reason":"uncounted"' in service.log_text(), 5)
        assert _status(service, "/ready") == 200
        assert service.log_text().count("Redis is away") == 1
        assert PASSWORD not in service.log_text()
        server.start()
        began = time.monotonic()
        until(lambda: _ask(service, "closed") == 200, 5)
        assert time.monotonic() - began < 5
        assert service.log_text().count("Redis is back") == 1


def test_redis_that_answers_nothing_costs_a_moment_once(tmp_path: Path, database: Database) -> None:
    with redis() as server, replicas(tmp_path, database, server.url, 1) as (service,):
        assert _ask(service) == 200
        server.pause()
        took = []
        for _ in range(20):
            began = time.monotonic()
            assert _ask(service) in (200, 429)
            took.append(time.monotonic() - began)
        assert sum(took) < 2.5  # each its own moment of 0.2 s would be 4 s
        assert _ask(service, "closed") == 503
        assert service.log_text().count("Redis is away") == 1
        server.resume()
        until(lambda: _ask(service, "closed") == 200, 5)


def test_a_wrong_password_is_told_once_and_the_service_serves(
    tmp_path: Path, database: Database
) -> None:
    with redis() as server:
        url = server.url.replace(PASSWORD, "another-one")
        with replicas(tmp_path, database, url, 1) as (service,):
            assert [_ask(service) for _ in range(21)] == [200] * 20 + [429]
            time.sleep(1.5)  # asked again meanwhile
            assert service.log_text().count("Redis is away") == 1
            assert "another-one" not in service.log_text()


@pytest.mark.parametrize("kind", ["shared", "closed"])
def test_without_redis_this_process_counts(planted: Service, kind: str) -> None:
    statuses = [_ask(planted, kind) for _ in range(21)]
    assert statuses == [200] * 20 + [429]
