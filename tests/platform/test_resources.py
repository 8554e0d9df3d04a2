"""Resources without code: each contract of tests/platform/contracts/resources/, over HTTP."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from db import ids
from openapi.contract import Operation
from tests.platform.fix_resources import NAMES, ResourceService, ResourceTenant, resource_tenant

VERB_ORDER = ("create", "get", "list", "replace", "update", "delete")
NOT_FOUND = (404, "not-found")


@pytest.fixture(params=NAMES)
def resources(request: pytest.FixtureRequest) -> ResourceService:
    running: ResourceService = request.getfixturevalue(request.param)
    return running


@pytest.fixture
def acme(resources: ResourceService) -> Iterator[ResourceTenant]:
    with resource_tenant(resources, "Acme") as created:
        yield created


@pytest.fixture
def rival(resources: ResourceService) -> Iterator[ResourceTenant]:
    with resource_tenant(resources, "Rival") as created:
        yield created


def operations(resources: ResourceService) -> list[Operation]:
    """Return the operations of the generic handlers on tables that rows can be added to.

    Referenced tables come first, and are deleted last.
    """
    all_operations = resources.contract.operations
    tables = [table for table in resources.contract.tables if f"{table}.create" in all_operations]
    on_tables = [o for o in all_operations.values() if o.tag in tables and o.verb in VERB_ORDER]
    deletes = [o for o in on_tables if o.verb == "delete"]
    others = [o for o in on_tables if o.verb != "delete"]
    return [
        *sorted(others, key=lambda o: (tables.index(o.tag), VERB_ORDER.index(o.verb))),
        *sorted(deletes, key=lambda o: -tables.index(o.tag)),
    ]


def test_every_operation_of_every_table_works_without_code(
    resources: ResourceService, acme: ResourceTenant
) -> None:
    for operation in operations(resources):
        path, row = acme.path(operation), acme.row(operation.tag)
        body = acme.body(operation) if operation.body else None
        match operation.verb:
            case "create":
                assert _contains(row, acme.body(operation))
            case "get":
                assert acme.get(path).json() == row
            case "list":
                _assert_listed(acme, operation, path, row)
            case "replace" | "update":
                response = acme.http.request(operation.method, path, json=body)
                assert response.status_code == 200, response.text
                assert acme.get(path).json() == response.json()
                assert _contains(response.json(), body)
                acme.rows[operation.tag] = response.json()
            case "delete":
                assert acme.http.delete(path).status_code == 204
                assert acme.http.delete(path).status_code == 404
                assert acme.get(path).status_code == 404


def _assert_listed(
    acme: ResourceTenant, operation: Operation, path: str, row: dict[str, Any]
) -> None:
    assert acme.get(path).json()["items"] == [row]
    query = {p["name"]: p["schema"] for p in operation.parameters if p["in"] == "query"}
    for value in query.get("sort", {}).get("enum", ()):
        assert acme.get(path, sort=value).json() == {"items": [row]}
    for name in query.keys() & row.keys():
        value = str(row[name]).lower() if isinstance(row[name], bool) else row[name]
        assert acme.get(path, **{name: value}).json()["items"] == [row], name


def test_every_operation_treats_another_tenants_row_as_missing(
    resources: ResourceService, acme: ResourceTenant, rival: ResourceTenant
) -> None:
    for operation in operations(resources):
        acme.row(operation.tag)
        rival.row(operation.tag)
    for operation in operations(resources):
        body = rival.body(operation) if operation.body else None
        for org, missing_org in ((acme.org, ids.new()), (rival.org, rival.org)):
            foreign = acme.path(operation).replace(acme.org, org)
            missing = acme.path(operation, lambda _: ids.new()).replace(acme.org, missing_org)
            if foreign.count("/") > 3 or org == acme.org:
                responses = [
                    rival.http.request(operation.method, path, json=body)
                    for path in (foreign, missing)
                ]
                assert [_outcome(response) for response in responses] == [NOT_FOUND] * 2, foreign
    for operation in operations(resources):
        if operation.verb == "get":
            assert acme.get(acme.path(operation)).json() == acme.row(operation.tag)


def test_a_reference_to_another_tenants_row_is_a_reference_to_a_missing_row(
    resources: ResourceService, acme: ResourceTenant, rival: ResourceTenant
) -> None:
    for operation in operations(resources):
        body = acme.body(operation, acme.id) if operation.body else None
        if body is None or body == acme.body(operation, lambda _: "missing"):
            continue  # no references
        path = rival.path(operation)
        foreign, missing = (
            rival.http.request(operation.method, path, json=rival.body(operation, id_of))
            for id_of in (acme.id, lambda _: ids.new())
        )
        assert _outcome(foreign) == _outcome(missing) == NOT_FOUND
        assert foreign.json()["errors"] == missing.json()["errors"]
        assert foreign.json()["errors"][0]["pointer"].removeprefix("/") in body


def _outcome(response: httpx.Response) -> tuple[int, str | None]:
    return response.status_code, response.json().get("code")


def _contains(row: dict[str, Any], sent: dict[str, Any] | None) -> bool:
    return all(_utc(row[name]) == _utc(value) for name, value in (sent or {}).items())


def _utc(value: Any) -> Any:
    return value.replace("+00:00", "Z") if isinstance(value, str) else value
