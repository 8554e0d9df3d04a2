"""Requests with an Idempotency-Key: done once, answered as often as they are sent."""

import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import psycopg
import pytest

from tests.fix_postgres import Database
from tests.fix_service import Service, Tenant, tenant

REPLAYED = "idempotency-replayed"


def keyed(to: Tenant, path: str, key: str, **body: Any) -> httpx.Response:
    return to.http.post(path, json=body, headers={"Idempotency-Key": key})


def projects(of: Tenant) -> str:
    return f"/orgs/{of.org}/projects"


def names(of: Tenant) -> list[str]:
    listed = of.get(projects(of), limit=100).json()["items"]
    return [project["name"] for project in listed]


@pytest.fixture
def key() -> str:
    return str(uuid.uuid4())


@pytest.fixture
def owner(database: Database) -> Iterator[psycopg.Connection[Any]]:
    """A superuser, who sees every row."""
    with psycopg.connect(database.superuser_url, autocommit=True) as connection:
        yield connection


def kept(owner: psycopg.Connection[Any], org_id: str) -> int:
    query = "select count(*) from idempotency_keys where org_id = %s"
    row = owner.execute(query, (org_id,)).fetchone()
    return int(row[0]) if row else 0


def same(first: httpx.Response, again: httpx.Response) -> bool:
    """Whether it is the first answer, and says so."""
    assert REPLAYED not in first.headers
    assert again.headers[REPLAYED] == "true"
    fields = ("location", "content-type", "content-length")
    return (first.status_code, first.content, [first.headers[f] for f in fields]) == (
        again.status_code,
        again.content,
        [again.headers[f] for f in fields],
    )


def test_a_retry_gets_the_first_answer_and_changes_nothing(acme: Tenant, key: str) -> None:
    first = keyed(acme, projects(acme), key, name="Apollo")
    assert first.status_code == 201
    for _ in range(3):
        assert same(first, keyed(acme, projects(acme), key, name="Apollo"))
    assert names(acme) == ["Apollo"]


def test_a_retry_gets_the_first_answer_although_what_it_made_is_gone(
    acme: Tenant, key: str
) -> None:
    first = keyed(acme, projects(acme), key, name="Apollo")
    assert acme.http.delete(first.headers["location"]).status_code == 204
    assert same(first, keyed(acme, projects(acme), key, name="Apollo"))
    assert names(acme) == []


def test_the_spelling_of_a_body_makes_no_other_request(acme: Tenant, key: str) -> None:
    first = keyed(acme, projects(acme), key, name="Apollo")
    spelt = acme.http.post(
        projects(acme),
        content=b'  {"name" : "\\u0041pollo"}',
        headers={"Idempotency-Key": key, "Content-Type": "application/json"},
    )
    assert same(first, spelt)


def test_quotes_are_no_part_of_a_key(acme: Tenant, key: str) -> None:
    first = keyed(acme, projects(acme), f'"{key}"', name="Apollo")
    assert same(first, keyed(acme, projects(acme), key, name="Apollo"))
    odd = keyed(acme, projects(acme), '"a \\"b\\" \\\\c"', name="Vostok")
    assert same(odd, keyed(acme, projects(acme), '"a \\"b\\" \\\\c"', name="Vostok"))


def test_another_body_or_operation_with_the_key_is_refused(acme: Tenant, key: str) -> None:
    assert keyed(acme, projects(acme), key, name="Apollo").status_code == 201
    other = str(uuid.uuid4())
    assert keyed(acme, "/orgs", other, name="Second").status_code == 201
    for answer in (
        keyed(acme, projects(acme), key, name="Vostok"),
        keyed(acme, "/orgs", other, name="Third"),
    ):
        assert answer.status_code == 422
        assert answer.json()["code"] == "idempotency-key-reused"
    assert names(acme) == ["Apollo"]
    assert len(acme.get("/orgs").json()["items"]) == 2


def test_the_key_of_a_first_organization_makes_no_project(service: Service, key: str) -> None:
    with tenant(service, "Acme") as acme:
        acme.http.headers["Authorization"] = (
            f"Bearer {acme.http.post('/auth/guest').json()['access_token']}"
        )
        made = keyed(acme, "/orgs", key, name="First")
        acme.org = made.json()["id"]
        assert keyed(acme, projects(acme), key, name="First").status_code == 422
