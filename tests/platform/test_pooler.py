"""The service through PgBouncer in transaction mode, with one connection to the server."""

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
def url(database: Database) -> Iterator[str]:
    tool("pgbouncer")
    with tempfile.TemporaryDirectory() as run:
        folder = Path(run, "pooler")
        folder.mkdir()
        with pooler(folder, database.app_url) as made:
            yield made


@pytest.fixture(scope="module")
def pooled(tmp_path_factory: pytest.TempPathFactory, url: str) -> Iterator[Service]:
    with serving(tmp_path_factory.mktemp("pooled"), url) as service:
        yield service


def test_the_whole_way_from_guest_to_project_works(pooled: Service) -> None:
    with tenant(pooled, "Acme") as acme:
        apollo = acme.project("Apollo")
        assert acme.get(f"/orgs/{acme.org}/projects/{apollo['id']}").json() == apollo
        assert acme.get(f"/orgs/{acme.org}/projects").json() == {"items": [apollo]}
        again = acme.http.post(f"/orgs/{acme.org}/projects", json={"name": "Apollo"})
        assert again.status_code == 409
        exchanged = acme.http.post("/auth/token", json={"org_id": acme.org})
        assert exchanged.status_code == 200
        assert acme.http.delete(f"/orgs/{acme.org}/projects/{apollo['id']}").status_code == 204
        assert acme.http.delete(f"/orgs/{acme.org}").status_code == 204


def test_a_key_is_honoured(pooled: Service) -> None:
    with tenant(pooled, "Acme") as acme:
        for path in ("/orgs", f"/orgs/{acme.org}/projects"):
            sent = {"json": {"name": "Once"}, "headers": {"Idempotency-Key": path}}
            with ThreadPoolExecutor(3) as pool:
                at_once = list(pool.map(lambda _, p=path, s=sent: acme.http.post(p, **s), range(3)))
            made = {a.content for a in at_once if a.status_code == 201}
            assert len(made) == 1
            again = acme.http.post(path, **sent)
            assert again.headers["idempotency-replayed"] == "true"
            assert {again.content} == made


def test_two_tenants_at_once_see_their_own_rows_only(pooled: Service) -> None:
    with tenant(pooled, "Acme") as acme, tenant(pooled, "Rival") as rival:
        own = {t.org: t.project("Own")["id"] for t in (acme, rival)}

        def look(n: int) -> list[tuple[str, str]]:
            mine, other = (acme, rival) if n % 2 else (rival, acme)
            assert mine.get(f"/orgs/{other.org}/projects").status_code == 404
            if n % 10 == 0:
                assert mine.project(f"P{n}")["org_id"] == mine.org
            project = mine.get(f"/orgs/{mine.org}/projects/{own[mine.org]}").json()
            assert project["id"] == own[mine.org]
            listed = mine.get(f"/orgs/{mine.org}/projects", limit=100).json()["items"]
            return [(mine.org, item["org_id"]) for item in listed]

        with ThreadPoolExecutor(8) as pool:
            seen = [pair for pairs in pool.map(look, range(100)) for pair in pairs]
        assert len(seen) > 100
        assert [pair for pair in seen if pair[0] != pair[1]] == []


def test_nothing_stays_bound_on_the_shared_connection(pooled: Service, url: str) -> None:
    with tenant(pooled, "Acme") as acme:
        for n in range(3):
            acme.project(f"P{n}")
            acme.get(f"/orgs/{acme.org}/projects")
            acme.get("/orgs")
    with psycopg.connect(url, prepare_threshold=None) as other:
        for setting in ("app.org_id", "app.subject"):
            row = other.execute("select current_setting(%s, true)", (setting,)).fetchone()
            assert row in ((None,), ("",))
        assert other.execute("show statement_timeout").fetchone() == ("0",)
        assert other.execute("show transaction_read_only").fetchone() == ("off",)
        assert other.execute("select from projects").rowcount == 0
