"""Replacing, patching and deleting rows: versions, unique keys, references, custom handlers."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.platform.fix_postgres import Postgres
from tests.platform.fix_resources import (
    ResourceService,
    ResourceTenant,
    resource_tenant,
    serving_resources,
)

METHODS = {"GET": "get", "PUT": "replace", "PATCH": "update", "DELETE": "delete"}


@pytest.fixture
def acme(ticket_desk: ResourceService) -> Iterator[ResourceTenant]:
    with resource_tenant(ticket_desk, "Acme") as created:
        yield created


@pytest.fixture
def doctor(clinic: ResourceService) -> Iterator[ResourceTenant]:
    with resource_tenant(clinic, "Clinic") as created:
        yield created


def ticket_path(acme: ResourceTenant) -> str:
    return f"/orgs/{acme.org}/tickets/{acme.id('tickets')}"


def ticket_body(acme: ResourceTenant, method: str) -> dict[str, Any] | None:
    if method == "DELETE":
        return None
    return acme.body(acme.contract.operations["tickets.replace"])


def test_each_version_has_its_own_etag(acme: ResourceTenant) -> None:
    path = ticket_path(acme)
    first = acme.get(path)
    assert acme.get(path).headers["etag"] == first.headers["etag"]
    changed = acme.http.patch(path, json={"priority": 2})
    assert changed.headers["etag"] != first.headers["etag"]
    assert acme.get(path).headers["etag"] == changed.headers["etag"]
    assert acme.http.head(path).headers["etag"] == changed.headers["etag"]


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
def test_a_row_that_has_changed_since_is_left_unchanged(acme: ResourceTenant, method: str) -> None:
    path, body = ticket_path(acme), ticket_body(acme, method)
    old_etag = acme.get(path).headers["etag"]
    newer = acme.http.patch(path, json={"subject": "Newer"})
    rejected = acme.http.request(method, path, json=body, headers={"If-Match": old_etag})
    assert (rejected.status_code, rejected.json()["code"]) == (412, "precondition-failed")
    assert acme.get(path).text == newer.text
    for tags in (f"W/{newer.headers['etag']}", f'{old_etag}, "x"', '""', f'"x" , W/{old_etag}'):
        rejected = acme.http.request(method, path, json=body, headers={"If-Match": tags})
        assert (rejected.status_code, rejected.json()["code"]) == (412, "precondition-failed"), tags
    for malformed in ("x", '"x', '"x",', '"x" "y"', '*, "x"'):
        rejected = acme.http.request(method, path, json=body, headers={"If-Match": malformed})
        assert rejected.status_code == 400, malformed
    current = {"If-Match": f'"x", {newer.headers["etag"]}'}
    assert acme.http.request(method, path, json=body, headers=current).is_success


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
def test_if_match_finds_no_missing_row_and_no_unknown_tag(
    acme: ResourceTenant, method: str
) -> None:
    path, body = ticket_path(acme), ticket_body(acme, method)
    missing = path[:-4] + "0000"
    for tag in ("*", '"never"', '"' + "0" * 64 + '"'):
        response = acme.http.request(method, missing, json=body, headers={"If-Match": tag})
        assert response.status_code == 404
    unknown_tag = {"If-Match": '"{},NULL"'}
    assert acme.http.request(method, path, json=body, headers=unknown_tag).status_code == 412
    any_tag = {"If-Match": "*"}
    assert acme.http.request(method, path, json=body, headers=any_tag).is_success


def test_of_many_concurrent_changes_to_one_version_one_succeeds(acme: ResourceTenant) -> None:
    path = ticket_path(acme)
    headers = {"If-Match": acme.get(path).headers["etag"]}

    def change(n: int) -> int:
        return acme.http.patch(path, json={"subject": f"by {n}"}, headers=headers).status_code

    with ThreadPoolExecutor(8) as pool:
        statuses = sorted(pool.map(change, range(16)))
    assert statuses == [200, *[412] * 15]


def test_concurrent_patches_of_different_columns_all_persist(acme: ResourceTenant) -> None:
    path = ticket_path(acme)
    patches = [{"priority": 5}, {"subject": "Both"}, {"status": "closed"}, {"labels": ["x"]}]
    with ThreadPoolExecutor(4) as pool:
        responses = list(pool.map(lambda patch: acme.http.patch(path, json=patch), patches))
    assert {response.status_code for response in responses} == {200}
    row = acme.get(path).json()
    assert {name: row[name] for patch in patches for name in patch} == {
        "priority": 5,
        "subject": "Both",
        "status": "closed",
        "labels": ["x"],
    }


def test_a_change_updates_updated_at_and_not_created_at(acme: ResourceTenant) -> None:
    path = ticket_path(acme)
    before = acme.get(path).json()
    for method, body in (("PATCH", {"priority": 1}), ("PUT", ticket_body(acme, "PUT"))):
        after = acme.http.request(method, path, json=body).json()
        assert after["updated_at"] > before["updated_at"]
        assert after["created_at"] == before["created_at"]
        before = after


def test_replacing_resets_columns_that_are_not_sent(acme: ResourceTenant) -> None:
    row = acme.http.put(ticket_path(acme), json={"reference": "AB-1", "subject": "Only"}).json()
    not_sent = {name: row[name] for name in ("body", "status", "priority", "due", "labels")}
    assert not_sent == {"body": None, "status": "open", "priority": 3, "due": None, "labels": []}


def test_a_unique_value_that_is_taken_is_a_conflict(acme: ResourceTenant) -> None:
    create = acme.contract.operations["tickets.create"]
    row, path = acme.row("tickets"), acme.path(create)
    other = acme.post(path, **acme.body(create) | {"reference": "ZZ-9"})
    duplicate = {"reference": row["reference"]}
    responses = [
        acme.http.post(path, json=acme.body(create)),
        acme.http.patch(f"{path}/{other['id']}", json=duplicate),
        acme.http.put(f"{path}/{other['id']}", json=acme.body(create) | duplicate),
    ]
    assert {(r.status_code, r.json()["code"]) for r in responses} == {(409, "conflict")}
    assert acme.get(f"{path}/{other['id']}").json() == other


def test_a_referenced_row_is_kept_or_deleted_with_its_references_as_the_contract_declares(
    doctor: ResourceTenant,
) -> None:
    for table in ("clinics", "doctors", "patients", "visits"):
        doctor.row(table)

    def path(table: str) -> str:
        return doctor.path(doctor.contract.operations[f"{table}.delete"])

    restricted = doctor.http.delete(path("doctors"))
    assert (restricted.status_code, restricted.json()["detail"]) == (
        409,
        "Other resources still reference this resource",
    )
    visits = path("visits")
    assert doctor.get(visits).status_code == 200
    assert doctor.http.delete(path("patients")).status_code == 204
    assert doctor.get(visits).status_code == 404
    assert doctor.http.delete(path("doctors")).status_code == 204


def test_deleting_an_organization_deletes_its_rows(doctor: ResourceTenant) -> None:
    doctor.row("visits")
    assert doctor.http.delete(f"/orgs/{doctor.org}").status_code == 204


def test_a_nested_row_is_reached_only_through_its_own_parent(doctor: ResourceTenant) -> None:
    visit = doctor.path(doctor.contract.operations["visits.get"])
    create = doctor.contract.operations["patients.create"]
    other_patient = doctor.post(doctor.path(create), **doctor.body(create))["id"]
    wrong_parent = visit.replace(doctor.id("patients"), other_patient)
    for method, verb in METHODS.items():
        declared = doctor.contract.operations[f"visits.{verb}"]
        body = doctor.body(declared) if declared.body else None
        assert doctor.http.request(method, wrong_parent, json=body).status_code == 404
    assert doctor.get(wrong_parent.rpartition("/")[0]).json() == {"items": []}
    assert doctor.get(visit).json() == doctor.row("visits")


CUSTOM_HANDLERS = '''
"""Custom handlers of two operations; the others need no code."""


async def create(org_id, body, tenant, generic, **rest):
    body["subject"] = body["subject"].strip().capitalize()
    return await generic(org_id=org_id, body=body, tenant=tenant, **rest)


async def get(tenant, generic, **rest):
    row, status, headers = await generic(tenant=tenant, **rest)
    return row, status, headers | {"Cache-Control": "private"}
'''


def test_a_custom_handler_replaces_the_generic_one_and_may_call_it(
    postgres: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("handlers")
    (folder / "tickets.py").write_text(CUSTOM_HANDLERS)
    with (
        serving_resources(
            "ticket_desk", postgres, tmp_path_factory, HANDLERS=str(folder)
        ) as running,
        resource_tenant(running, "Acme") as acme,
    ):
        create = acme.contract.operations["tickets.create"]
        row = acme.post(acme.path(create), **acme.body(create) | {"subject": "  loud "})
        assert row["subject"] == "Loud"
        path = f"{acme.path(create)}/{row['id']}"
        assert acme.get(path).headers["cache-control"] == "private"
        assert acme.http.patch(path, json={"subject": " kept"}).json()["subject"] == " kept"
        assert acme.http.delete(path).status_code == 204
