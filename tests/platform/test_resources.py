"""Resources that need no code: each contract of tests/contracts/resources/, over HTTP."""

from collections.abc import Iterator
from typing import Any

import pytest

from db import ids
from openapi.contract import Operation
from tests.platform.fix_resources import NAMES, Desk, Owner, owner

ORDER = ("create", "get", "list", "replace", "update", "delete")


@pytest.fixture(params=NAMES)
def desk(request: pytest.FixtureRequest) -> Desk:
    made: Desk = request.getfixturevalue(request.param)
    return made


@pytest.fixture
def acme(desk: Desk) -> Iterator[Owner]:
    with owner(desk, "Acme") as made:
        yield made


@pytest.fixture
def rival(desk: Desk) -> Iterator[Owner]:
    with owner(desk, "Rival") as made:
        yield made


def operations(desk: Desk) -> list[Operation]:
    """Operations on tables; what others refer to is made first and deleted last."""
    found = [o for o in desk.contract.operations.values() if o.tag in desk.contract.tables]
    tables = list(desk.contract.tables)
    deletes = [o for o in found if o.verb == "delete"]
    others = [o for o in found if o.verb != "delete"]
    return [
        *sorted(others, key=lambda o: (tables.index(o.tag), ORDER.index(o.verb))),
        *sorted(deletes, key=lambda o: -tables.index(o.tag)),
    ]


def test_every_operation_of_every_table_works_without_code(desk: Desk, acme: Owner) -> None:
    for operation in operations(desk):
        path, row = acme.path(operation), acme.row(operation.tag)
        body = acme.body(operation) if operation.body else None
        match operation.verb:
            case "create":
                assert _holds(row, acme.body(operation))
            case "get":
                assert acme.get(path).json() == row
            case "list":
                _lists(acme, operation, path, row)
            case "replace" | "update":
                answer = acme.http.request(operation.method, path, json=body)
                assert answer.status_code == 200, answer.text
                assert acme.get(path).json() == answer.json()
                assert _holds(answer.json(), body)
                acme.rows[operation.tag] = answer.json()
            case "delete":
                assert acme.http.delete(path).status_code == 204
                assert acme.http.delete(path).status_code == 404
                assert acme.get(path).status_code == 404


def _lists(acme: Owner, operation: Operation, path: str, row: dict[str, Any]) -> None:
    assert acme.get(path).json()["items"] == [row]
    query = {p["name"]: p["schema"] for p in operation.parameters if p["in"] == "query"}
    for value in query.get("sort", {}).get("enum", ()):
        assert acme.get(path, sort=value).json() == {"items": [row]}
    for name in query.keys() & row.keys():
        value = str(row[name]).lower() if isinstance(row[name], bool) else row[name]
        assert acme.get(path, **{name: value}).json()["items"] == [row], name


def test_what_is_anothers_answers_in_every_operation_as_what_is_absent(
    desk: Desk, acme: Owner, rival: Owner
) -> None:
    for operation in operations(desk):
        acme.row(operation.tag)
        rival.row(operation.tag)
    for operation in operations(desk):
        body = rival.body(operation) if operation.body else None
        for org, none in ((acme.org, ids.new()), (rival.org, rival.org)):
            foreign = acme.path(operation).replace(acme.org, org)
            absent = acme.path(operation, lambda table: ids.new()).replace(acme.org, none)
            if foreign.count("/") > 3 or org == acme.org:
                answers = [
                    rival.http.request(operation.method, path, json=body)
                    for path in (foreign, absent)
                ]
                assert _plain(answers[0]) == _plain(answers[1]) == (404, "not-found"), foreign
    for operation in operations(desk):
        if operation.verb == "get":
            assert acme.get(acme.path(operation)).json() == acme.row(operation.tag)


def test_a_reference_to_anothers_row_answers_as_one_to_none(
    desk: Desk, acme: Owner, rival: Owner
) -> None:
    for operation in operations(desk):
        body = acme.body(operation, acme.id) if operation.body else None
        if body is None or body == acme.body(operation, lambda table: "absent"):
            continue
        path = rival.path(operation)
        answers = [
            rival.http.request(operation.method, path, json=rival.body(operation, id_of))
            for id_of in (acme.id, lambda table: ids.new())
        ]
        assert _plain(answers[0]) == _plain(answers[1]) == (404, "not-found")
        faults = [answer.json()["errors"] for answer in answers]
        assert faults[0] == faults[1]
        assert faults[0][0]["pointer"].removeprefix("/") in body


def _plain(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json().get("code")


def _holds(row: dict[str, Any], sent: dict[str, Any] | None) -> bool:
    return all(_utc(row[name]) == _utc(value) for name, value in (sent or {}).items())


def _utc(value: Any) -> Any:
    return value.replace("+00:00", "Z") if isinstance(value, str) else value
