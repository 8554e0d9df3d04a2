"""What `make resource` writes works: served from the contract, on tables from the planner."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dev.scaffold.__main__ import write
from dev.scaffold.request import ResourceRequest
from openapi import contract
from openapi.contract import Operation
from tests.platform.fix_planner import database_of
from tests.platform.fix_postgres import Postgres
from tests.platform.fix_resources import ResourceService, ResourceTenant, resource_tenant
from tests.platform.fix_service import serving
from tests.platform.test_scaffold import EVERY, TASKS

# The reference to itself has the name that the row's own id has in its path.
NOTES = "text:text note_id:ref(notes)? task_id:ref(tasks,restrict) other_id:ref(tasks)?"


@pytest.fixture(scope="module")
def desk(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ResourceService]:
    folder = tmp_path_factory.mktemp("scaffold")
    file = Path(shutil.copy(contract.DEFAULT, folder / "openapi.yaml"))
    for name, fields in (("tasks", TASKS), ("things", EVERY), ("notes", NOTES)):
        verbs = "create list get replace update delete"
        write(file, contract.DEFAULT_HANDLERS, ResourceRequest(name, fields, verbs))
    database, command = (
        database_of(postgres, file, folder),
        ("-m", "tests.platform.app_with_contract"),
    )
    with serving(folder, database.app_url, command=command, CONTRACT=str(file)) as service:
        yield ResourceService(service, contract.load(file), database)


@pytest.fixture
def acme(desk: ResourceService) -> Iterator[ResourceTenant]:
    with resource_tenant(desk, "Acme") as made:
        yield made


@pytest.fixture
def rival(desk: ResourceService) -> Iterator[ResourceTenant]:
    with resource_tenant(desk, "Rival") as made:
        yield made


def operations(desk: ResourceService) -> list[Operation]:
    """Those that were written, each after what it needs: rows are deleted last, notes first."""
    found = [o for o in desk.contract.operations.values() if o.tag in ("tasks", "things", "notes")]
    deletes = [o for tag in ("notes", "things", "tasks") for o in found if o.id == f"{tag}.delete"]
    return [o for o in found if o.verb != "delete"] + deletes


def call(tenant: ResourceTenant, operation: Operation, rows: ResourceTenant) -> Any:
    """Ask as one tenant for an operation on the rows of another."""
    body = rows.body(operation) if operation.body else None
    return tenant.http.request(operation.method, rows.path(operation), json=body)


def test_every_operation_works_with_its_example(
    desk: ResourceService, acme: ResourceTenant
) -> None:
    for operation in operations(desk):
        if operation.verb == "create":
            assert acme.row(operation.tag).keys() > acme.body(operation).keys()
        else:
            answer = call(acme, operation, acme)
            assert answer.status_code in (200, 204), f"{operation.id}: {answer.text}"


def test_no_operation_works_for_another_tenant(
    desk: ResourceService, acme: ResourceTenant, rival: ResourceTenant
) -> None:
    for operation in operations(desk):
        answer = call(rival, operation, acme)
        assert answer.status_code == 404, f"{operation.id}: {answer.text}"
    for table in ("tasks", "things", "notes"):
        get = desk.contract.operations[f"{table}.get"]
        assert acme.get(acme.path(get)).json() == acme.row(table)


def test_defaults_and_nulls_are_what_was_said(acme: ResourceTenant) -> None:
    tasks = f"/orgs/{acme.org}/tasks"
    made = acme.post(tasks, title="Write")
    assert (made["done"], made["due"]) == (False, None)
    changed = acme.http.patch(f"{tasks}/{made['id']}", json={"due": "2026-12-01T09:00:00Z"}).json()
    assert changed["due"] == "2026-12-01T09:00:00+00:00"
    again = acme.http.patch(f"{tasks}/{made['id']}", json={"done": True}).json()
    assert (again["title"], again["done"], again["due"]) == ("Write", True, changed["due"])
    replaced = acme.http.put(f"{tasks}/{made['id']}", json={"title": "Anew"}).json()
    assert (replaced["title"], replaced["done"], replaced["due"]) == ("Anew", False, None)
    assert acme.http.post(tasks, json={"title": "Anew"}).status_code == 409


def test_references_stay_within_the_tenant_and_keep_what_they_say(
    acme: ResourceTenant, rival: ResourceTenant
) -> None:
    task, other = acme.post(f"/orgs/{acme.org}/tasks", title="A"), acme.row("tasks")
    notes = f"/orgs/{acme.org}/notes"
    first = acme.post(notes, text="1", task_id=task["id"], other_id=other["id"])
    second = acme.post(notes, text="2", task_id=task["id"], note_id=first["id"])
    assert second["note_id"] == first["id"]
    third = acme.post(notes, text="3", task_id=task["id"])
    moved = acme.http.patch(f"{notes}/{third['id']}", json={"note_id": first["id"]})
    assert moved.json()["note_id"] == first["id"]

    for column in ("note_id", "task_id", "other_id"):
        theirs = {column: rival.id("notes" if column == "note_id" else "tasks")}
        assert acme.http.patch(f"{notes}/{third['id']}", json=theirs).status_code == 404
    assert len(acme.get(notes, task_id=task["id"]).json()["items"]) == 3
    assert acme.get(notes, task_id=rival.id("tasks")).json()["items"] == []

    path = f"/orgs/{acme.org}/tasks"
    assert acme.http.delete(f"{path}/{task['id']}").status_code == 409
    assert acme.http.delete(f"{path}/{other['id']}").status_code == 204
    assert acme.get(f"{notes}/{first['id']}").status_code == 404
    assert acme.get(notes).json()["items"] == []
