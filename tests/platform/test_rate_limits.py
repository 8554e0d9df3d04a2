"""`x-rate-limit`: what is counted, the RateLimit headers, and Redis that is shared or down."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from service.limits.rate_counters import MAX_KEYS, MemoryCounters, Rate
from tests.platform.fix_logs import count_events
from tests.platform.fix_postgres import Database
from tests.platform.fix_redis import PASSWORD, redis
from tests.platform.fix_service import Service, get_status, has_status, serving, tenant, until

COMMAND = ("-m", "tests.platform.app_with_faults")


def test_no_window_contains_more_requests_than_the_limit() -> None:
    counters, rate, allowed = MemoryCounters(), Rate(10, 60), []
    for tick in range(4000):
        now = tick * 0.13
        if counters.hit("a", rate, now).allowed:
            allowed.append(now)
    assert len(allowed) >= 10 * 520 / 61 - 10
    for n, start in enumerate(allowed):
        assert sum(start <= other < start + 60 for other in allowed[n:]) <= 10


def test_a_result_has_the_remaining_requests_and_the_time_until_there_are_more() -> None:
    counters, rate = MemoryCounters(), Rate(3, 60)
    assert [counters.hit("a", rate, 0.5).remaining for _ in range(3)] == [2, 1, 0]
    rejected = counters.hit("a", rate, 30.5)
    assert (rejected.allowed, rejected.remaining) == (False, 0)
    assert counters.hit("b", rate, 30.5).remaining == 2
    assert not counters.hit("a", rate, 30.4 + rejected.reset_seconds).allowed
    assert counters.hit("a", rate, 30.5 + rejected.reset_seconds).allowed


def test_of_too_many_keys_the_least_recently_used_are_forgotten() -> None:
    counters, rate = MemoryCounters(), Rate(1, 60)
    for n in range(MAX_KEYS):
        counters.hit(str(n), rate, 1.0)
        if n % 1000 == 0:
            counters.hit("recent", rate, 1.0)
    for n in range(2000):
        counters.hit(f"more {n}", rate, 1.0)
    assert not counters.hit("recent", rate, 1.0).allowed
    assert counters.hit("5", rate, 1.0).allowed


def test_every_response_of_a_limited_operation_has_the_rate_limit_headers(faulty: Service) -> None:
    with faulty.http() as client:
        responses = [client.get("/faults/limited/client", params={"n": n}) for n in range(4)]
        unlimited = client.get("/health")
    assert [response.status_code for response in responses] == [200, 400, 400, 429]
    states = [response.headers["ratelimit"].partition(";t=") for response in responses]
    assert [state for state, *_ in states] == [f'"faults.by_client";r={n}' for n in (2, 1, 0, 0)]
    assert all(1 <= int(seconds) <= 61 for *_, seconds in states)
    policies = {response.headers["ratelimit-policy"] for response in responses}
    assert policies == {'"faults.by_client";q=3;w=60'}
    assert responses[-1].headers["retry-after"] == states[-1][2]
    assert "ratelimit" not in unlimited.headers


def test_each_tenant_and_each_operation_has_its_own_counter(faulty: Service) -> None:
    with tenant(faulty, "Acme") as acme, tenant(faulty, "Rival") as rival:
        for each in (acme, rival):
            statuses = [each.get("/faults/limited/tenant").status_code for _ in range(4)]
            assert statuses == [200, 200, 200, 429]
        assert acme.get(f"/orgs/{acme.org}").status_code == 200


@contextmanager
def replicas(folder: Path, database: Database, url: str, count: int = 2) -> Iterator[list[Service]]:
    """Run services with the operations of tests/platform/faults/ and the Redis at `url`."""
    with ExitStack() as stack:
        services = []
        for n in range(count):
            subfolder = folder / str(n)
            subfolder.mkdir()
            settings = {"FAULTS_CONTRACT": str(subfolder / "contract.json"), "REDIS_URL": url}
            settings["KEYS_DIR"] = str(folder / "keys")
            services.append(
                stack.enter_context(
                    serving(subfolder, database.app_url, command=COMMAND, ready=False, **settings)
                )
            )
        for service in services:
            until(lambda url=service.url: has_status(f"{url}/ready"))
        yield services


def request(service: Service, operation: str = "shared") -> int:
    """Return the status of a limited operation: `shared`, or `closed` (`fail: closed`)."""
    return get_status(f"{service.url}/faults/limited/{operation}")


def test_replicas_share_a_counter_with_one_round_trip_per_request(
    tmp_path: Path, database: Database
) -> None:
    with redis() as server, replicas(tmp_path, database, server.url) as services:
        before = server.call_count("evalsha")
        with ThreadPoolExecutor(8) as pool:
            statuses = list(pool.map(lambda n: request(services[n % 2]), range(60)))
        assert sorted(statuses) == [200] * 20 + [429] * 40
        assert server.call_count("evalsha") - before == 60
        assert request(services[0]) == 429
        server.run("FLUSHALL")
        assert request(services[0]) == 200
        assert request(services[1], "closed") == 200


def test_each_process_counts_for_itself_while_redis_is_down(
    tmp_path: Path, database: Database
) -> None:
    with redis() as server, replicas(tmp_path, database, server.url, 1) as (service,):
        assert (request(service), request(service, "closed")) == (200, 200)
        server.kill()
        started = time.monotonic()
        with ThreadPoolExecutor(8) as pool:
            statuses = list(pool.map(lambda _: request(service), range(60)))
        assert time.monotonic() - started < 5
        assert sorted(statuses) == [200] * 20 + [429] * 40
        with service.http() as client:
            rejected = client.get("/faults/limited/closed")
        assert rejected.json()["code"] == "unavailable"
        assert rejected.headers["retry-after"] == "1"
        until(lambda: '"reason":"uncounted"' in service.log_text(), 5)
        assert has_status(f"{service.url}/ready")
        assert count_events(service, "redis_unavailable") == 1
        assert PASSWORD not in service.log_text()
        server.start()
        started = time.monotonic()
        until(lambda: request(service, "closed") == 200, 5)
        assert time.monotonic() - started < 5
        assert count_events(service, "redis_ready") == 1


def test_a_redis_that_does_not_respond_delays_only_one_request(
    tmp_path: Path, database: Database
) -> None:
    with redis() as server, replicas(tmp_path, database, server.url, 1) as (service,):
        assert request(service) == 200
        server.pause()
        durations = []
        for _ in range(20):
            started = time.monotonic()
            assert request(service) in (200, 429)
            durations.append(time.monotonic() - started)
        assert sum(durations) < 2.5  # a timeout of 0.2 s each would be 4 s
        assert request(service, "closed") == 503
        assert count_events(service, "redis_unavailable") == 1
        server.resume()
        until(lambda: request(service, "closed") == 200, 5)


def test_a_wrong_redis_password_is_logged_once_and_the_service_keeps_serving(
    tmp_path: Path, database: Database
) -> None:
    with redis() as server:
        url = server.url.replace(PASSWORD, "another-one")
        with replicas(tmp_path, database, url, 1) as (service,):
            assert [request(service) for _ in range(21)] == [200] * 20 + [429]
            time.sleep(1.5)  # it retries meanwhile
            assert count_events(service, "redis_unavailable") == 1
            assert "another-one" not in service.log_text()


@pytest.mark.parametrize("operation", ["shared", "closed"])
def test_without_redis_the_process_counts_in_memory(faulty: Service, operation: str) -> None:
    statuses = [request(faulty, operation) for _ in range(21)]
    assert statuses == [200] * 20 + [429]
