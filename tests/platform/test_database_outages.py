"""A service whose database is down, comes back, is locked, or has only one connection."""

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import psycopg
import pytest

from tests.platform.fix_logs import log_events, wait_for_event
from tests.platform.fix_postgres import Database
from tests.platform.fix_proxy import Proxy, proxy
from tests.platform.fix_service import Service, Tenant, has_status, serving, tenant, until


@dataclass(frozen=True)
class ProxiedService:
    """A service that reaches its database through a proxy."""

    service: Service
    proxy: Proxy

    def has_status(self, path: str, status: int) -> bool:
        return has_status(f"{self.service.url}{path}", status)


@pytest.fixture(scope="module")
def proxied(
    tmp_path_factory: pytest.TempPathFactory, database: Database
) -> Iterator[ProxiedService]:
    """A service that was started while its database was down."""
    with proxy(database.app_url) as between:
        url = between.url(database.app_url)
        with serving(tmp_path_factory.mktemp("proxied"), url, ready=False) as service:
            running = ProxiedService(service, between)
            until(lambda: running.has_status("/health", 200))
            yield running


def test_a_service_starts_without_its_database_and_is_ready_once_it_is_up(
    proxied: ProxiedService,
) -> None:
    proxied.proxy.close()
    with proxied.service.http() as http:
        ready = until(lambda: (r := http.get("/ready")).status_code == 503 and r)
        assert ready.json()["detail"] == "The database is unavailable"
        _assert_unavailable(http)
        proxied.proxy.open()
        _assert_recovers(proxied)


def test_a_service_recovers_from_each_outage_of_its_database(proxied: ProxiedService) -> None:
    service = proxied.service
    proxied.proxy.open()
    until(lambda: proxied.has_status("/ready", 200))
    with service.http() as http, tenant(service, "Acme") as acme:
        for _ in range(2):
            proxied.proxy.close()
            started = time.monotonic()
            until(lambda: proxied.has_status("/ready", 503))
            assert time.monotonic() - started < 4
            assert http.get("/ready").json()["detail"] == "The database is unavailable"
            _assert_unavailable(http)
            proxied.proxy.open()
            _assert_recovers(proxied)
            assert acme.get(f"/orgs/{acme.org}").status_code == 200
    assert service.is_running


def _assert_unavailable(http: httpx.Client) -> None:
    started = time.monotonic()
    response = http.post("/auth/guest")
    assert time.monotonic() - started < 5
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) >= 1
    assert response.json()["code"] == "unavailable"
    assert http.get("/health").status_code == 200


def _assert_recovers(proxied: ProxiedService) -> None:
    """Expect a write, a transaction and a read to succeed again soon."""
    started = time.monotonic()
    with proxied.service.http() as http:
        until(lambda: http.post("/auth/guest").status_code == 201)
        assert time.monotonic() - started < 4
        until(lambda: proxied.has_status("/ready", 200))
        bearer = {"Authorization": f"Bearer {http.post('/auth/guest').json()['access_token']}"}
        until(lambda: http.post("/orgs", json={"name": "N"}, headers=bearer).status_code == 201)
        until(lambda: http.get("/orgs", headers=bearer).status_code == 200)
    assert time.monotonic() - started < 5


def test_a_service_that_starts_while_a_table_is_locked_waits_and_logs_why(
    database_copy: Database, tmp_path: Path
) -> None:
    """PostgreSQL locks a table to read its policies, which only conflicts with changes to it."""
    with psycopg.connect(database_copy.superuser_url) as superuser:
        superuser.execute("lock table projects in access exclusive mode")
        with serving(tmp_path, database_copy.app_url, ready=False) as service:
            reason = "the database is unavailable (no response within 1 s)"
            wait_for_event(service, "database_not_ready", reason=reason)
            until(lambda: has_status(f"{service.url}/ready", 503))
            superuser.rollback()
            until(lambda: has_status(f"{service.url}/ready"))
            wait_for_event(service, "database_ready")


@pytest.fixture(scope="module")
def one_connection(
    tmp_path_factory: pytest.TempPathFactory, database: Database
) -> Iterator[Service]:
    """A service with one connection of each kind."""
    folder = tmp_path_factory.mktemp("one_connection")
    with serving(folder, database.app_url, DATABASE_CONNECTIONS="1") as running:
        yield running


def test_tenants_that_share_one_connection_see_only_their_own_rows(
    one_connection: Service,
) -> None:
    with tenant(one_connection, "Acme") as acme, tenant(one_connection, "Rival") as rival:
        projects = {t.org: t.project("Own")["id"] for t in (acme, rival)}

        def read(caller: Tenant, n: int) -> None:
            path = f"/orgs/{caller.org}/projects"
            if n % 4 < 2:
                items = caller.get(path).json()["items"]
            else:
                items = [caller.get(f"{path}/{projects[caller.org]}").json()]
            assert [(p["org_id"], p["id"]) for p in items] == [(caller.org, projects[caller.org])]
            other = rival if caller is acme else acme
            if n % 10 == 0:
                assert caller.get(f"/orgs/{other.org}/projects").status_code == 404
                assert caller.get("/orgs").json()["items"][0]["id"] == caller.org

        for n in range(200):
            read(acme if n % 2 else rival, n)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda n: read(acme if n % 2 else rival, n), range(200)))


def test_requests_blocked_by_a_table_lock_are_rejected_in_bounded_time(
    one_connection: Service, database: Database
) -> None:
    """One statement waits for the lock, some queue behind it, and the rest is rejected at once."""
    count = 400

    async def send(acme: Tenant) -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=count + 10)
        headers = dict(acme.http.headers)
        async with httpx.AsyncClient(
            base_url=one_connection.url, headers=headers, limits=limits, timeout=20, verify=False
        ) as http:
            path = f"/orgs/{acme.org}/projects"
            tasks = [asyncio.create_task(http.get(path)) for _ in range(count)]
            await asyncio.sleep(0.5)
            health = await http.get("/health")
            assert health.status_code == 200
            return await asyncio.gather(*tasks)

    with tenant(one_connection, "Acme") as acme:
        acme.project("Apollo")
        with psycopg.connect(database.superuser_url) as superuser:
            superuser.execute("lock table projects in access exclusive mode")
            responses = asyncio.run(send(acme))
            superuser.rollback()
        assert {response.status_code for response in responses} == {503}
        assert all(response.headers["retry-after"].isdigit() for response in responses)
        lines = [x for x in log_events(one_connection) if x.get("operation") == "projects.list"]
        durations_ms = sorted(line["duration_ms"] for line in lines[-count:])
        # A statement ends after 2 s, and a request waits at most 2.5 s to be sent.
        assert durations_ms[0] < 500
        assert durations_ms[-1] < 6500
        until(lambda: acme.get(f"/orgs/{acme.org}/projects").status_code == 200, 3)
