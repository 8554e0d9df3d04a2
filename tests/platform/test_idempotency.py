"""Idempotency-Key: the work is done once, and repeated requests get the stored response."""

from pathlib import Path
from typing import Any

import orjson
import psycopg
import pytest

from service.operations.idempotency import canonical
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
from tests.platform.fix_postgres import Database
from tests.platform.fix_problems import error_pointers
from tests.platform.fix_service import Service, Tenant, serving

Superuser = psycopg.Connection[Any]


def age(superuser: Superuser, org_id: str, interval: str) -> None:
    """Make the stored responses of an organization older."""
    superuser.execute(
        "update idempotency_keys set created_at = created_at - %s::interval where org_id = %s",
        (interval, org_id),
    )


def test_a_repeated_request_gets_the_first_response_and_changes_nothing(acme: Tenant) -> None:
    key = new_key()
    first = post(acme, projects(acme), key, name="Apollo")
    assert first.status_code == 201
    for _ in range(3):
        assert is_replay(first, post(acme, projects(acme), key, name="Apollo"))
    assert project_names(acme) == ["Apollo"]


def test_a_repeated_request_gets_the_first_response_even_after_the_resource_is_deleted(
    acme: Tenant,
) -> None:
    key = new_key()
    first = post(acme, projects(acme), key, name="Apollo")
    assert acme.http.delete(first.headers["location"]).status_code == 204
    assert is_replay(first, post(acme, projects(acme), key, name="Apollo"))
    assert project_names(acme) == []


def test_an_equal_body_in_another_notation_is_the_same_request(acme: Tenant) -> None:
    key = new_key()
    first = post(acme, projects(acme), key, name="Apollo")
    second = acme.http.post(
        projects(acme),
        content=b'  {"name" : "\\u0041pollo"}',
        headers={"Idempotency-Key": key, "Content-Type": "application/json"},
    )
    assert is_replay(first, second)


def test_quotes_are_not_part_of_a_key(acme: Tenant) -> None:
    key = new_key()
    first = post(acme, projects(acme), f'"{key}"', name="Apollo")
    assert is_replay(first, post(acme, projects(acme), key, name="Apollo"))
    escaped = '"a \\"b\\" \\\\c"'
    first = post(acme, projects(acme), escaped, name="Vostok")
    assert is_replay(first, post(acme, projects(acme), escaped, name="Vostok"))


def test_a_key_with_another_body_is_rejected(acme: Tenant) -> None:
    key, org_key = new_key(), new_key()
    assert post(acme, projects(acme), key, name="Apollo").status_code == 201
    assert post(acme, "/orgs", org_key, name="Second").status_code == 201
    for response in (
        post(acme, projects(acme), key, name="Vostok"),
        post(acme, "/orgs", org_key, name="Third"),
    ):
        assert response.status_code == 422
        assert response.json()["code"] == "idempotency-key-reused"
    assert project_names(acme) == ["Apollo"]
    assert len(acme.get("/orgs").json()["items"]) == 2


def test_a_key_with_another_operation_is_rejected(service: Service) -> None:
    with guest(service) as acme:
        key = new_key()
        assert post(acme, "/orgs", key, name="First").status_code == 201
        assert post(acme, projects(acme), key, name="First").status_code == 422


def test_an_error_is_not_stored(acme: Tenant) -> None:
    key, existing = new_key(), acme.project("Apollo")
    for _ in range(2):
        rejected = post(acme, projects(acme), key, name="Apollo")
        assert (rejected.status_code, rejected.json()["code"]) == (409, "conflict")
    assert post(acme, projects(acme), key, name="").status_code == 400
    assert acme.http.delete(f"{projects(acme)}/{existing['id']}").status_code == 204
    created = post(acme, projects(acme), key, name="Apollo")
    assert created.status_code == 201
    assert is_replay(created, post(acme, projects(acme), key, name="Apollo"))


def test_nothing_is_stored_for_a_request_without_a_key(acme: Tenant, superuser: Superuser) -> None:
    acme.project("Apollo")
    assert count_stored(superuser, acme.org) == 0


@pytest.mark.parametrize(
    "key", ["", '""', '"a', 'a"', "a b", "a,b", "a\\b", '"a\\b"', "\xe9", "x" * 256]
)
def test_a_malformed_key_is_rejected(shared_tenant: Tenant, key: str) -> None:
    headers = {"Idempotency-Key": key.encode("latin-1")}
    path = projects(shared_tenant)
    response = shared_tenant.http.post(path, json={"name": "N"}, headers=headers)
    assert error_pointers(response) == [("header", "/Idempotency-Key")]


def test_two_keys_are_rejected(shared_tenant: Tenant) -> None:
    headers = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    path = projects(shared_tenant)
    response = shared_tenant.http.post(path, json={"name": "N"}, headers=headers)
    assert error_pointers(response) == [("header", "/Idempotency-Key")]


def test_each_member_of_an_organization_has_its_own_keys(
    acme: Tenant, rival: Tenant, superuser: Superuser
) -> None:
    superuser.execute(
        "insert into memberships (org_id, subject, role) values (%s, %s, 'owner')",
        (acme.org, rival.subject),
    )
    token = rival.http.post("/auth/token", json={"org_id": acme.org}).json()["access_token"]
    rival.http.headers["Authorization"] = f"Bearer {token}"
    key, org_key = new_key(), new_key()
    first = post(acme, projects(acme), key, name="Apollo")
    second = post(rival, projects(acme), key, name="Vostok")
    assert (first.status_code, second.status_code) == (201, 201)
    assert REPLAYED not in second.headers
    orgs = [post(member, "/orgs", org_key, name="Same") for member in (acme, rival)]
    assert [org.status_code for org in orgs] == [201, 201]
    assert orgs[0].json()["id"] != orgs[1].json()["id"]


def test_an_organization_is_created_once_whatever_the_token_is_bound_to(service: Service) -> None:
    with guest(service) as acme:
        first = post(acme, "/orgs", "first", name="First")
        assert first.json()["id"] == acme.org
        assert is_replay(first, post(acme, "/orgs", "first", name="First"))
        second = post(acme, "/orgs", "second", name="Second")
        assert second.json()["id"] != acme.org
        assert is_replay(second, post(acme, "/orgs", "second", name="Second"))
        assert acme.http.delete(f"/orgs/{acme.org}").status_code == 204
        # The keys still work although the organization that the token is bound to is deleted.
        assert is_replay(second, post(acme, "/orgs", "second", name="Second"))
        third = post(acme, "/orgs", "third", name="Third")
        assert third.status_code == 201
        assert is_replay(third, post(acme, "/orgs", "third", name="Third"))
        items = acme.get("/orgs").json()["items"]
        assert [org["name"] for org in items] == ["Second", "Third"]


def test_deleting_an_organization_deletes_its_stored_responses(
    service: Service, superuser: Superuser
) -> None:
    with guest(service) as acme:
        orgs = [post(acme, "/orgs", f"k{n}", name=f"Org {n}").json()["id"] for n in range(2)]
        post(acme, projects(acme), "p", name="Apollo")
        assert [count_stored(superuser, org) for org in orgs] == [2, 1]
        for org in orgs:
            assert acme.http.delete(f"/orgs/{org}").status_code == 204
        query = "select count(*) from idempotency_keys where subject = %s or org_id = any (%s)"
        assert superuser.execute(query, (acme.subject, orgs)).fetchone() == (0,)
        new = post(acme, "/orgs", "k0", name="Org 0")
        assert new.status_code == 201
        assert new.json()["id"] not in orgs


def test_a_key_expires_after_24_hours(acme: Tenant, superuser: Superuser) -> None:
    key = new_key()
    first = post(acme, projects(acme), key, name="Apollo")
    age(superuser, acme.org, "23 hours 59 minutes")
    assert is_replay(first, post(acme, projects(acme), key, name="Apollo"))
    age(superuser, acme.org, "1 minute 1 second")
    new = post(acme, projects(acme), key, name="Vostok")
    assert new.status_code == 201
    assert is_replay(new, post(acme, projects(acme), key, name="Vostok"))
    assert count_stored(superuser, acme.org) == 1
    org = post(acme, "/orgs", key, name="Again")
    age(superuser, org.json()["id"], "1 day")
    assert post(acme, "/orgs", key, name="Again").json()["id"] != org.json()["id"]


def test_expired_responses_are_deleted_in_batches(acme: Tenant, superuser: Superuser) -> None:
    for n in range(25):
        assert post(acme, projects(acme), f"old-{n}", name=f"P{n}").status_code == 201
    age(superuser, acme.org, "25 hours")
    counts = []
    for n in range(4):
        post(acme, projects(acme), f"new-{n}", name=f"N{n}")
        counts.append(count_stored(superuser, acme.org))
    assert counts == [16, 7, 3, 4]


def test_browsers_may_send_a_key_and_read_whether_the_response_is_replayed(
    tmp_path: Path, database: Database
) -> None:
    origin = "https://app.example.com"
    with (
        serving(tmp_path, database.app_url, CORS_ORIGINS=origin) as service,
        service.http() as client,
    ):
        request = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        preflight = client.options("/orgs", headers=request)
        assert "Idempotency-Key" in preflight.headers["access-control-allow-headers"]
        response = client.get("/", headers={"Origin": origin})
        assert "Idempotency-Replayed" in response.headers["access-control-expose-headers"]


@pytest.mark.parametrize(
    ("first", "second", "are_equal"),
    [
        ("1", "1.0", True),
        ("1e2", "100", True),
        ("-0.0", "0", True),
        ('[{"a": 10}]', '[{"a": 1e1}]', True),
        ("9007199254740992", "9007199254740992.0", True),
        ("9007199254740993", "9007199254740992.0", False),
        ("1.5", "1", False),
        ("1", "true", False),
        ("1e300", "1e300", True),
    ],
)
def test_equal_numbers_are_the_same_request(first: str, second: str, are_equal: bool) -> None:
    bodies = [orjson.dumps(canonical(orjson.loads(text))) for text in (first, second)]
    assert (bodies[0] == bodies[1]) == are_equal
