"""Idempotency keys of concurrent requests, and of requests whose connection was lost."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from tests.platform.fix_idempotency import (
    REPLAYED,
    count_stored,
    guest,
    is_replay,
    new_key,
    post,
    project_names,
    projects,
)
from tests.platform.fix_postgres import Postgres, count_blocked
from tests.platform.fix_proxy import Proxy, proxy
from tests.platform.fix_service import Tenant, serving, until

Superuser = psycopg.Connection[Any]
MAYBE_APPLIED = "may or may not have been applied"


@contextmanager
def project_inserts_blocked(superuser: Superuser) -> Iterator[None]:
    """Make every request that creates a project wait until the end of the block."""
    with superuser.transaction():
        superuser.execute("lock table projects in share mode")
        yield


def test_concurrent_requests_with_one_key_do_the_work_once(
    acme: Tenant, superuser: Superuser
) -> None:
    for turn in range(10):
        key = new_key()

        def send(_: int, key: str = key, turn: int = turn) -> httpx.Response:
            return post(acme, projects(acme), key, name=f"P{turn}")

        with ThreadPoolExecutor(3) as pool:
            responses = list(pool.map(send, range(3)))
        created = [r for r in responses if r.status_code == 201]
        assert [REPLAYED in r.headers for r in created].count(False) == 1
        assert len({r.content for r in created}) == 1
        rejected = {(r.status_code, r.json()["code"]) for r in responses if r not in created}
        assert rejected <= {(409, "idempotency-key-in-use")}
    assert project_names(acme) == [f"P{turn}" for turn in range(10)]
    assert count_stored(superuser, acme.org) == 10


def test_a_repeated_request_is_rejected_at_once_while_the_first_is_being_processed(
    acme: Tenant, superuser: Superuser
) -> None:
    key = new_key()
    with ThreadPoolExecutor(1) as pool:
        with project_inserts_blocked(superuser):
            first = pool.submit(post, acme, projects(acme), key, name="Apollo")
            until(lambda: count_blocked(superuser))
            second = post(acme, projects(acme), key, name="Apollo")
            assert not first.done()
            assert (second.status_code, second.json()["code"]) == (409, "idempotency-key-in-use")
            assert second.headers["retry-after"] == "1"
        assert is_replay(first.result(), post(acme, projects(acme), key, name="Apollo"))


def test_each_tenant_has_its_own_keys(acme: Tenant, rival: Tenant, superuser: Superuser) -> None:
    key = new_key()
    ours = post(acme, projects(acme), key, name="Apollo")
    theirs = post(rival, projects(rival), key, name="Apollo")
    assert theirs.status_code == 201
    assert REPLAYED not in theirs.headers
    assert ours.json()["id"] != theirs.json()["id"]
    for path in (projects(acme), f"/orgs/{new_key()}/projects"):
        assert post(rival, path, new_key(), name="Apollo").status_code == 404
    with ThreadPoolExecutor(2) as pool:
        shared_key = new_key()
        with project_inserts_blocked(superuser):  # neither is rejected because of the other
            both = [
                pool.submit(post, each, projects(each), shared_key, name="Both")
                for each in (acme, rival)
            ]
            until(lambda: count_blocked(superuser) >= 2)
        assert [response.result().status_code for response in both] == [201, 201]


def test_a_request_is_retried_after_its_connection_was_lost(
    acme: Tenant, superuser: Superuser
) -> None:
    with ThreadPoolExecutor(1) as pool:
        with project_inserts_blocked(superuser):
            pending = pool.submit(post, acme, projects(acme), new_key(), name="Apollo")
            until(lambda: count_blocked(superuser))
            superuser.execute("select pg_terminate_backend(pid) from pg_locks where not granted")
        response = pending.result()
    assert response.status_code == 201
    assert REPLAYED not in response.headers
    assert project_names(acme) == ["Apollo"]


# Commits that are cut off

SLOW_COMMIT = """
create function at_commit() returns trigger language plpgsql as
    $$ begin perform pg_sleep(1); return null; end $$;
create constraint trigger at_commit after insert on organizations
    deferrable initially deferred for each row
    when (new.name like 'Slow%') execute function at_commit()
"""


@dataclass(frozen=True)
class ProxiedService:
    """A guest of a service that reaches its database through a proxy."""

    acme: Tenant
    superuser: Superuser
    proxy: Proxy

    def lose_connections(self) -> None:
        self.proxy.close()
        self.proxy.open()

    def lose_commit(self, send: Callable[[], httpx.Response]) -> httpx.Response:
        """Send a request, cut its connection while it commits, and return its response."""
        query = "select from pg_stat_activity where query ilike 'commit' and wait_event = 'PgSleep'"
        with ThreadPoolExecutor(1) as pool:
            pending = pool.submit(send)
            until(lambda: self.superuser.execute(query).rowcount == 1)
            self.lose_connections()
            return pending.result()

    def organizations(self) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = self.acme.get("/orgs").json()["items"]
        return items


@pytest.fixture
def proxied(tmp_path: Path, postgres: Postgres) -> Iterator[ProxiedService]:
    """A service behind a proxy; organizations called Slow take a second to commit."""
    database = postgres.database()
    with (
        psycopg.connect(database.superuser_url, autocommit=True) as superuser,
        proxy(database.app_url) as between,
    ):
        superuser.execute(SLOW_COMMIT)
        between.open()
        with serving(tmp_path, between.url(database.app_url)) as service, guest(service) as acme:
            yield ProxiedService(acme, superuser, between)


def test_a_write_whose_commit_was_cut_off_may_or_may_not_have_been_applied(
    proxied: ProxiedService,
) -> None:
    response = proxied.lose_commit(lambda: proxied.acme.http.post("/orgs", json={"name": "Slow"}))
    assert response.status_code == 503
    assert MAYBE_APPLIED in response.json()["detail"]
    until(lambda: len(proxied.organizations()) == 1)


def test_a_write_with_a_key_whose_commit_was_cut_off_gets_its_response(
    proxied: ProxiedService,
) -> None:
    response = proxied.lose_commit(lambda: post(proxied.acme, "/orgs", "key", name="Slow"))
    assert response.status_code == 201
    assert [org["id"] for org in proxied.organizations()] == [response.json()["id"]]
    assert is_replay(response, post(proxied.acme, "/orgs", "key", name="Slow"))


def test_a_write_that_was_cut_off_before_its_commit_is_not_applied(
    proxied: ProxiedService,
) -> None:
    with ThreadPoolExecutor(1) as pool:
        with proxied.superuser.transaction():
            proxied.superuser.execute("lock table organizations in share mode")
            pending = pool.submit(proxied.acme.http.post, "/orgs", json={"name": "Acme"})
            until(lambda: count_blocked(proxied.superuser))
            proxied.lose_connections()
        response = pending.result()
    assert response.status_code == 503
    assert MAYBE_APPLIED not in response.json()["detail"]
    until(lambda: not count_blocked(proxied.superuser))
    assert proxied.organizations() == []
