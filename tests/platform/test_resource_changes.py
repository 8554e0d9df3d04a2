"""Replacing, patching and deleting: versions, merge patches, keys, references, and own handlers."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from service.operations.column_values import merge_patch
from tests.platform.fix_postgres import Postgres
from tests.platform.fix_resources import Desk, Owner, desk, owner


@pytest.fixture
def acme(ticket_desk: Desk) -> Iterator[Owner]:
    with owner(ticket_desk, "Acme") as made:
        yield made


@pytest.fixture
def doctor(clinic: Desk) -> Iterator[Owner]:
    with owner(clinic, "Clinic") as made:
        yield made


@pytest.fixture
def typist(every_type: Desk) -> Iterator[Owner]:
    with owner(every_type, "Typist") as made:
        yield made


def ticket_of(acme: Owner) -> str:
    return f"/orgs/{acme.org}/tickets/{acme.id('tickets')}"


def test_each_version_has_an_etag_of_its_own(acme: Owner) -> None:
    path = ticket_of(acme)
    first = acme.get(path)
    assert acme.get(path).headers["etag"] == first.headers["etag"]
    changed = acme.http.patch(path, json={"priority": 2})
    assert changed.headers["etag"] != first.headers["etag"]
    assert acme.get(path).headers["etag"] == changed.headers["etag"]
    assert acme.http.head(path).headers["etag"] == changed.headers["etag"]


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
def test_what_has_changed_since_is_left_alone(acme: Owner, method: str) -> None:
    path = ticket_of(acme)
    body = acme.body(acme.contract.operations["tickets.replace"]) if method != "DELETE" else None
    seen = acme.get(path).headers["etag"]
    newer = acme.http.patch(path, json={"subject": "Newer"})
    stale = acme.http.request(method, path, json=body, headers={"If-Match": seen})
    assert (stale.status_code, stale.json()["code"]) == (412, "precondition-failed")
    assert acme.get(path).text == newer.text
    now = {"If-Match": newer.headers["etag"]}
    assert acme.http.request(method, path, json=body, headers=now).is_success


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
def test_an_etag_of_nothing_and_any_tag_of_what_is_not_there(acme: Owner, method: str) -> None:
    path = ticket_of(acme)
    body = acme.body(acme.contract.operations["tickets.replace"]) if method != "DELETE" else None
    absent = path[:-4] + "0000"
    for tag in ("*", '"never"', '"' + "0" * 64 + '"'):
        answer = acme.http.request(method, absent, json=body, headers={"If-Match": tag})
        assert answer.status_code == 404
    nothing = {"If-Match": '"{},NULL"'}
    assert acme.http.request(method, path, json=body, headers=nothing).status_code == 412
    anything = {"If-Match": "*"}
    assert acme.http.request(method, path, json=body, headers=anything).is_success


def test_of_many_who_saw_the_same_version_one_may_change_it(acme: Owner) -> None:
    path = ticket_of(acme)
    seen = {"If-Match": acme.get(path).headers["etag"]}

    def change(n: int) -> int:
        return acme.http.patch(path, json={"subject": f"by {n}"}, headers=seen).status_code

    with ThreadPoolExecutor(8) as pool:
        answers = sorted(pool.map(change, range(16)))
    assert answers == [200, *[412] * 15]


def test_patches_of_several_columns_at_once_all_stay(acme: Owner) -> None:
    path = ticket_of(acme)
    patches = [{"priority": 5}, {"subject": "Both"}, {"status": "closed"}, {"labels": ["x"]}]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda patch: acme.http.patch(path, json=patch), patches))
    assert {answer.status_code for answer in answers} == {200}
    row = acme.get(path).json()
    assert {name: row[name] for patch in patches for name in patch} == {
        "priority": 5,
        "subject": "Both",
        "status": "closed",
        "labels": ["x"],
    }


def test_the_time_of_a_change_moves_and_that_of_the_making_does_not(acme: Owner) -> None:
    path = ticket_of(acme)
    before = acme.get(path).json()
    for method, body in (
        ("PATCH", {"priority": 1}),
        ("PUT", acme.body(acme.contract.operations["tickets.replace"])),
    ):
        after = acme.http.request(method, path, json=body).json()
        assert after["updated_at"] > before["updated_at"]
        assert after["created_at"] == before["created_at"]
        before = after


def test_replacing_takes_back_what_is_not_sent(acme: Owner) -> None:
    path = ticket_of(acme)
    row = acme.http.put(path, json={"reference": "AB-1", "subject": "Only"}).json()
    left = {name: row[name] for name in ("body", "status", "priority", "due", "labels")}
    assert left == {"body": None, "status": "open", "priority": 3, "due": None, "labels": []}


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": 1, "b": 2}, {"a": None}, {"b": 2}),
        ({"a": [1]}, {"a": 2}, {"a": 2}),
        ({"a": 1}, {"a": [2, None]}, {"a": [2, None]}),
        ({"a": {"b": 1}}, {"a": {"b": 2, "c": None}}, {"a": {"b": 2}}),
        ({"a": [{"b": 1}]}, {"a": [3]}, {"a": [3]}),
        ([1, 2], {"a": 1}, {"a": 1}),
        ({"a": 1}, [2], [2]),
        ({"a": 1}, None, None),
        ({"a": 1}, "text", "text"),
        ({"n": None}, {"a": 1}, {"n": None, "a": 1}),
        ([1], {"a": 1, "b": None}, {"a": 1}),
        ({}, {"a": {"b": {"c": None}}}, {"a": {"b": {}}}),
        ({"a": {"b": {"c": 1, "d": 2}}}, {"a": {"b": {"c": None}}}, {"a": {"b": {"d": 2}}}),
        (None, {"a": None}, {}),
        ({"a": 1}, {}, {"a": 1}),
    ],
)
def test_a_merge_patch_is_applied_as_rfc_7396_says(target: Any, patch: Any, result: Any) -> None:
    before = json.dumps([target, patch])
    assert merge_patch(target, patch) == result
    assert json.dumps([target, patch]) == before


def test_a_patch_merges_into_objects_that_are_stored(typist: Owner) -> None:
    path = f"/orgs/{typist.org}/samples/{typist.id('samples')}"

    def patched(**body: Any) -> dict[str, Any]:
        answer = typist.http.patch(path, json=body)
        assert answer.status_code == 200, answer.text
        assert typist.get(path).json() == answer.json()
        found: dict[str, Any] = answer.json()
        return found

    patched(mapping_or_null=None, closed_or_null=None)
    assert patched(mapping_or_null={"a": 1})["mapping_or_null"] == {"a": 1}
    assert patched(mapping_or_null={"b": 2})["mapping_or_null"] == {"a": 1, "b": 2}
    assert patched(closed_or_null={"a": 1, "b": "x"})["closed_or_null"] == {"a": 1, "b": "x"}
    both = patched(closed_or_null={"a": 2, "b": None}, mapping_or_null={})
    assert (both["closed_or_null"], both["mapping_or_null"]) == ({"a": 2}, {"a": 1, "b": 2})
    assert patched(listed=[True])["listed"] == [True]
    assert patched(mapping_or_null=None)["mapping_or_null"] is None


def test_what_a_merge_would_make_is_held_against_the_contract_too(typist: Owner) -> None:
    path = f"/orgs/{typist.org}/samples/{typist.id('samples')}"
    typist.http.patch(path, json={"mapping": dict.fromkeys("abc", 1)})
    row = typist.get(path).json()
    answer = typist.http.patch(path, json={"mapping": dict.fromkeys("defg", 1), "whole": 7})
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["pointer"] == "/mapping"
    assert typist.get(path).json() == row


def test_merges_into_one_object_at_once_all_stay(typist: Owner) -> None:
    path = f"/orgs/{typist.org}/samples/{typist.id('samples')}"
    typist.http.patch(path, json={"mapping_or_null": None})

    def merged(name: str) -> int:
        return typist.http.patch(path, json={"mapping_or_null": {name: 1}}).status_code

    with ThreadPoolExecutor(5) as pool:
        assert set(pool.map(merged, "abcde")) == {200}
    assert typist.get(path).json()["mapping_or_null"] == dict.fromkeys("abcde", 1)


def test_an_empty_patch_changes_nothing(doctor: Owner) -> None:
    path = doctor.path(doctor.contract.operations["doctors.get"])
    row = doctor.get(path).json()
    answer = doctor.http.patch(path, json={"name": row["name"]})
    assert answer.json() == row


def test_a_value_that_only_one_may_have_is_refused_when_it_is_taken(acme: Owner) -> None:
    create = acme.contract.operations["tickets.create"]
    row, path = acme.row("tickets"), acme.path(create)
    other = acme.post(path, **acme.body(create) | {"reference": "ZZ-9"})
    clash = {"reference": row["reference"]}
    answers = [
        acme.http.post(path, json=acme.body(create)),
        acme.http.patch(f"{path}/{other['id']}", json=clash),
        acme.http.put(f"{path}/{other['id']}", json=acme.body(create) | clash),
    ]
    assert {(a.status_code, a.json()["code"]) for a in answers} == {(409, "conflict")}
    assert acme.get(f"{path}/{other['id']}").json() == other


def test_what_others_refer_to_is_kept_or_goes_with_them_as_the_contract_says(
    doctor: Owner,
) -> None:
    for table in ("clinics", "doctors", "patients", "visits"):
        doctor.row(table)

    def path(table: str) -> str:
        return doctor.path(doctor.contract.operations[f"{table}.delete"])

    in_use = doctor.http.delete(path("doctors"))
    assert (in_use.status_code, in_use.json()["detail"]) == (409, "Others refer to it")
    assert doctor.get(path("visits")).status_code == 200
    visits = path("visits")
    assert doctor.http.delete(path("patients")).status_code == 204
    assert doctor.get(visits).status_code == 404
    assert doctor.http.delete(path("doctors")).status_code == 204


def test_an_organization_goes_with_all_its_rows(doctor: Owner, clinic: Desk) -> None:
    doctor.row("visits")
    assert doctor.http.delete(f"/orgs/{doctor.org}").status_code == 204


def test_a_row_below_another_is_reached_by_its_own_path_only(doctor: Owner) -> None:
    visit = doctor.path(doctor.contract.operations["visits.get"])
    create = doctor.contract.operations["patients.create"]
    other = doctor.post(doctor.path(create), **doctor.body(create))["id"]
    elsewhere = visit.replace(doctor.id("patients"), other)
    for method in ("GET", "PUT", "PATCH", "DELETE"):
        operation = {"GET": "get", "PUT": "replace", "PATCH": "update", "DELETE": "delete"}[method]
        declared = doctor.contract.operations[f"visits.{operation}"]
        body = doctor.body(declared) if declared.body else None
        assert doctor.http.request(method, elsewhere, json=body).status_code == 404
    assert doctor.get(elsewhere.rpartition("/")[0]).json() == {"items": []}
    assert doctor.get(visit).json() == doctor.row("visits")


OWN = '''
"""A handler of the user's own: one operation is special, the others need no code."""


async def create(org_id, body, tenant, generic, **rest):
    body["subject"] = body["subject"].strip().capitalize()
    return await generic(org_id=org_id, body=body, tenant=tenant, **rest)


async def get(tenant, generic, **rest):
    row, status, headers = await generic(tenant=tenant, **rest)
    return row, status, headers | {"Cache-Control": "private"}
'''


def test_a_handler_of_ones_own_takes_over_and_may_call_the_generic_one(
    postgres: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("handlers")
    (folder / "tickets.py").write_text(OWN)
    with (
        desk("ticket_desk", postgres, tmp_path_factory, HANDLERS=str(folder)) as made,
        owner(made, "Acme") as acme,
    ):
        create = acme.contract.operations["tickets.create"]
        row = acme.post(acme.path(create), **acme.body(create) | {"subject": "  loud "})
        assert row["subject"] == "Loud"
        path = f"{acme.path(create)}/{row['id']}"
        assert acme.get(path).headers["cache-control"] == "private"
        assert acme.http.patch(path, json={"subject": " kept"}).json()["subject"] == " kept"
        assert acme.http.delete(path).status_code == 204
