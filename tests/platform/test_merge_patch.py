"""JSON merge patch (RFC 7396): the algorithm, and patches of stored rows."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from service.operations.column_values import merge_patch
from tests.platform.fix_resources import ResourceService, ResourceTenant, resource_tenant


@pytest.fixture
def typist(every_type: ResourceService) -> Iterator[ResourceTenant]:
    with resource_tenant(every_type, "Typist") as created:
        yield created


@pytest.fixture
def doctor(clinic: ResourceService) -> Iterator[ResourceTenant]:
    with resource_tenant(clinic, "Clinic") as created:
        yield created


def sample_path(typist: ResourceTenant) -> str:
    return f"/orgs/{typist.org}/samples/{typist.id('samples')}"


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
def test_a_merge_patch_follows_rfc_7396(target: Any, patch: Any, result: Any) -> None:
    before = json.dumps([target, patch])
    assert merge_patch(target, patch) == result
    assert json.dumps([target, patch]) == before


def test_a_patch_merges_into_stored_objects(typist: ResourceTenant) -> None:
    path = sample_path(typist)

    def patch(**body: Any) -> dict[str, Any]:
        response = typist.http.patch(path, json=body)
        assert response.status_code == 200, response.text
        assert typist.get(path).json() == response.json()
        patched: dict[str, Any] = response.json()
        return patched

    patch(mapping_or_null=None, closed_or_null=None)
    assert patch(mapping_or_null={"a": 1})["mapping_or_null"] == {"a": 1}
    assert patch(mapping_or_null={"b": 2})["mapping_or_null"] == {"a": 1, "b": 2}
    assert patch(closed_or_null={"a": 1, "b": "x"})["closed_or_null"] == {"a": 1, "b": "x"}
    both = patch(closed_or_null={"a": 2, "b": None}, mapping_or_null={})
    assert (both["closed_or_null"], both["mapping_or_null"]) == ({"a": 2}, {"a": 1, "b": 2})
    assert patch(listed=[True])["listed"] == [True]
    assert patch(mapping_or_null=None)["mapping_or_null"] is None


def test_the_merged_object_is_validated_against_the_contract(typist: ResourceTenant) -> None:
    path = sample_path(typist)
    typist.http.patch(path, json={"mapping": dict.fromkeys("abc", 1)})
    row = typist.get(path).json()
    response = typist.http.patch(path, json={"mapping": dict.fromkeys("defg", 1), "whole": 7})
    assert response.status_code == 400
    [error] = response.json()["errors"]
    assert error["pointer"] == "/mapping"
    assert error["detail"].startswith("after the merge: ")
    assert typist.get(path).json() == row


def test_concurrent_merges_into_one_object_all_persist(typist: ResourceTenant) -> None:
    path = sample_path(typist)
    typist.http.patch(path, json={"mapping_or_null": None})

    def merge(name: str) -> int:
        return typist.http.patch(path, json={"mapping_or_null": {name: 1}}).status_code

    with ThreadPoolExecutor(5) as pool:
        assert set(pool.map(merge, "abcde")) == {200}
    assert typist.get(path).json()["mapping_or_null"] == dict.fromkeys("abcde", 1)


def test_a_patch_that_repeats_the_value_changes_nothing(doctor: ResourceTenant) -> None:
    path = doctor.path(doctor.contract.operations["doctors.get"])
    row = doctor.get(path).json()
    response = doctor.http.patch(path, json={"name": row["name"]})
    assert response.json() == row
