"""Resources that `make resource` adds are served from the contract, on tables from the planner."""

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
from tests.platform.test_scaffold import EVERY, INTERNAL_NAMES, TASKS

# The path of a note has a parameter note_id, and notes have a column of that name too.
NOTES = "text:text note_id:ref(notes)? task_id:ref(tasks,restrict) other_id:ref(tasks)?"
LABELS = "label:string(1..40) count:integer=0"
VERBS = "create list get replace update delete"
RESOURCES = {
    "tasks": (TASKS, ""),
    "things": (EVERY, ""),
    "notes": (NOTES, ""),
    **{name: (LABELS, singular) for name, singular in INTERNAL_NAMES.items()},
}


@pytest.fixture(scope="module")
def resources(
    postgres: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ResourceService]:
    """The service of the shipped contract with all RESOURCES."""
    folder = tmp_path_factory.mktemp("scaffold")
    file = Path(shutil.copy(contract.DEFAULT, folder / "openapi.yaml"))
    for name, (fields, singular) in RESOURCES.items():
        request = ResourceRequest(name, fields, VERBS, singular)
        write(file, contract.DEFAULT_HANDLERS, request)
    database = database_of(postgres, file, folder)
    command = ("-m", "tests.platform.app_with_contract")
    with serving(folder, database.app_url, command=command, CONTRACT=str(file)) as service:
        yield ResourceService(service, contract.load(file), database)


@pytest.fixture
def acme(resources: ResourceService) -> Iterator[ResourceTenant]:
    with resource_tenant(resources, "Acme") as tenant:
        yield tenant


@pytest.fixture
def rival(resources: ResourceService) -> Iterator[ResourceTenant]:
    with resource_tenant(resources, "Rival") as tenant:
        yield tenant


def operations(resources: ResourceService) -> list[Operation]:
    """Return the operations of RESOURCES such that rows exist when they are called.

    Deletions come last, those of referencing tables first.
    """
    added = [o for o in resources.contract.operations.values() if o.tag in RESOURCES]
    deletions = [resources.contract.operations[f"{tag}.delete"] for tag in reversed(RESOURCES)]
    return [o for o in added if o.verb != "delete"] + deletions


def call(caller: ResourceTenant, operation: Operation, tenant: ResourceTenant) -> Any:
    """Return the response to one tenant that calls an operation on the rows of another."""
    body = tenant.body(operation) if operation.body else None
    return caller.http.request(operation.method, tenant.path(operation), json=body)


def test_every_operation_works_with_its_example(
    resources: ResourceService, acme: ResourceTenant
) -> None:
    for operation in operations(resources):
        if operation.verb == "create":
            assert acme.row(operation.tag).keys() > acme.body(operation).keys()
        else:
            response = call(acme, operation, acme)
            assert response.status_code in (200, 204), f"{operation.id}: {response.text}"


def test_no_operation_works_for_another_tenant(
    resources: ResourceService, acme: ResourceTenant, rival: ResourceTenant
) -> None:
    for operation in operations(resources):
        response = call(rival, operation, acme)
        assert response.status_code == 404, f"{operation.id}: {response.text}"
    for table in RESOURCES:
        get = resources.contract.operations[f"{table}.get"]
        assert acme.get(acme.path(get)).json() == acme.row(table)


def test_omitted_properties_get_their_default_or_null(acme: ResourceTenant) -> None:
    tasks = f"/orgs/{acme.org}/tasks"
    task = acme.post(tasks, title="Write")
    assert (task["done"], task["due"]) == (False, None)
    updated = acme.http.patch(f"{tasks}/{task['id']}", json={"due": "2026-12-01T09:00:00Z"}).json()
    assert updated["due"] == "2026-12-01T09:00:00+00:00"
    again = acme.http.patch(f"{tasks}/{task['id']}", json={"done": True}).json()
    assert (again["title"], again["done"], again["due"]) == ("Write", True, updated["due"])
    replaced = acme.http.put(f"{tasks}/{task['id']}", json={"title": "Rewrite"}).json()
    assert (replaced["title"], replaced["done"], replaced["due"]) == ("Rewrite", False, None)
    assert acme.http.post(tasks, json={"title": "Rewrite"}).status_code == 409


def test_references_stay_within_the_tenant_and_follow_their_delete_rule(
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
        foreign = {column: rival.id("notes" if column == "note_id" else "tasks")}
        assert acme.http.patch(f"{notes}/{third['id']}", json=foreign).status_code == 404
    assert len(acme.get(notes, task_id=task["id"]).json()["items"]) == 3
    assert acme.get(notes, task_id=rival.id("tasks")).json()["items"] == []

    tasks = f"/orgs/{acme.org}/tasks"
    assert acme.http.delete(f"{tasks}/{task['id']}").status_code == 409
    assert acme.http.delete(f"{tasks}/{other['id']}").status_code == 204
    assert acme.get(f"{notes}/{first['id']}").status_code == 404
    assert acme.get(notes).json()["items"] == []
