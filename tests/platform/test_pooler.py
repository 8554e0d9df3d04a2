"""The service behind PgBouncer in transaction mode, with one connection to the server."""

import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from evidence.harness.pgbouncer import pooler
from tests.platform.fix_postgres import Database
from tests.platform.fix_service import Service, serving, tenant
from tests.platform.fix_tools import tool


@pytest.fixture(scope="module")
def pooler_url(database: Database) -> Iterator[str]:
    tool("pgbouncer")
    with tempfile.TemporaryDirectory() as run:
        folder = Path(run, "pooler")
        folder.mkdir()
        with pooler(folder, database.app_url) as url:
            yield url


@pytest.fixture(scope="module")
def pooled(tmp_path_factory: pytest.TempPathFactory, pooler_url: str) -> Iterator[Service]:
    with serving(tmp_path_factory.mktemp("pooled"), pooler_url) as service:
        yield service


def test_every_kind_of_operation_works(pooled: Service) -> None:
    with tenant(pooled, "Acme") as acme:
        projects = f"/orgs/{acme.org}/projects"
        apollo = acme.project("Apollo")
        assert acme.get(f"{projects}/{apollo['id']}").json() == apollo
        assert acme.get(projects).json() == {"items": [apollo]}
        duplicate = acme.http.post(projects, json={"name": "Apollo"})
        assert duplicate.status_code == 409
        exchange = acme.http.post("/auth/token", json={"org_id": acme.org})
        assert exchange.status_code == 200
        assert acme.http.delete(f"{projects}/{apollo['id']}").status_code == 204
        assert acme.http.delete(f"/orgs/{acme.org}").status_code == 204


def test_concurrent_requests_with_one_idempotency_key_do_the_work_once(pooled: Service) -> None:
    with tenant(pooled, "Acme") as acme:
        for path in ("/orgs", f"/orgs/{acme.org}/projects"):
            request = {"json": {"name": "Once"}, "headers": {"Idempotency-Key": path}}
            with ThreadPoolExecutor(3) as pool:
                responses = list(
                    pool.map(lambda _, p=path, r=request: acme.http.post(p, **r), range(3))
                )
            created = {r.content for r in responses if r.status_code == 201}
            assert len(created) == 1
            repeated = acme.http.post(path, **request)
            assert repeated.headers["idempotency-replayed"] == "true"
            assert {repeated.content} == created


def test_concurrent_tenants_see_only_their_own_rows(pooled: Service) -> None:
    with tenant(pooled, "Acme") as acme, tenant(pooled, "Rival") as rival:
        projects = {t.org: t.project("Own")["id"] for t in (acme, rival)}

        def read(n: int) -> list[tuple[str, str]]:
            caller, other = (acme, rival) if n % 2 else (rival, acme)
            path = f"/orgs/{caller.org}/projects"
            assert caller.get(f"/orgs/{other.org}/projects").status_code == 404
            if n % 10 == 0:
                assert caller.project(f"P{n}")["org_id"] == caller.org
            project = caller.get(f"{path}/{projects[caller.org]}").json()
            assert project["id"] == projects[caller.org]
            items = caller.get(path, limit=100).json()["items"]
            return [(caller.org, item["org_id"]) for item in items]

        with ThreadPoolExecutor(8) as pool:
            pairs = [pair for page in pool.map(read, range(100)) for pair in page]
        assert len(pairs) > 100
        assert [pair for pair in pairs if pair[0] != pair[1]] == []


def test_nothing_stays_bound_on_the_shared_connection(pooled: Service, pooler_url: str) -> None:
    with tenant(pooled, "Acme") as acme:
        for n in range(3):
            acme.project(f"P{n}")
            acme.get(f"/orgs/{acme.org}/projects")
            acme.get("/orgs")
    with psycopg.connect(pooler_url, prepare_threshold=None) as connection:
        for setting in ("app.org_id", "app.subject"):
            row = connection.execute("select current_setting(%s, true)", (setting,)).fetchone()
            assert row in ((None,), ("",))
        assert connection.execute("show statement_timeout").fetchone() == ("0",)
        assert connection.execute("show transaction_read_only").fetchone() == ("off",)
        assert connection.execute("select from projects").rowcount == 0
