"""A database that lacks what the contract's tables need is told of in plain words, not by 500s."""

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from db import expected_tables
from db.expected_tables import ExpectedTable
from dev.scaffold.__main__ import write
from dev.scaffold.request import ResourceRequest
from openapi import contract
from tests.platform.fix_postgres import Database, Postgres
from tests.platform.fix_service import Service, serving, tenant, until

EVERYTHING = ("select", "insert", "update", "delete")


@pytest.fixture(scope="module")
def own(postgres: Postgres) -> Database:
    """A database that this module changes, with a table that has a name to be quoted."""
    made = postgres.database()
    with psycopg.connect(made.owner_url, autocommit=True) as owner:
        owner.execute('create table "order" (org_id uuid, id uuid, "from" text, gone text)')
        owner.execute('alter table "order" drop column gone')
        owner.execute('grant select, insert on "order" to covenant_app')
    return made


def lacking(database: Database, *wanted: ExpectedTable) -> str | None:
    async def ask() -> str | None:
        async with await psycopg.AsyncConnection.connect(database.app_url) as connection:
            return await expected_tables.missing(connection, wanted)

    return asyncio.run(ask())


def test_nothing_is_lacking_for_the_contract_after_its_migrations(database: Database) -> None:
    assert lacking(database, *expected_tables.from_contract(contract.load())) is None
    assert lacking(database) is None


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (ExpectedTable("order", ("org_id", "id", "from"), ("select", "insert")), None),
        (ExpectedTable("tasks", ("id",), EVERYTHING), "the contract's table tasks"),
        (ExpectedTable("order", ("id", "gone"), ("select",)), "the column order.gone"),
        (ExpectedTable("order", ("id",), EVERYTHING), "update on order, delete on order"),
        (ExpectedTable('"; drop', ("id",), ()), "the contract's table \"; drop"),
    ],
)
def test_what_is_lacking_is_named(own: Database, wanted: ExpectedTable, said: str | None) -> None:
    found = lacking(own, wanted)
    assert found == (said and f"the database lacks {said}: see make migration")


def test_of_much_that_is_lacking_only_some_is_named(own: Database) -> None:
    found = lacking(own, *(ExpectedTable(f"t{n}", ("id",), EVERYTHING) for n in range(7)))
    assert found is not None
    assert found.endswith("the contract's table t4, and 2 more: see make migration")


@pytest.fixture(scope="module")
def ahead(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service of a contract with tasks, on a database without."""
    folder = tmp_path_factory.mktemp("ahead")
    file = Path(shutil.copy(contract.DEFAULT, folder / "openapi.yaml"))
    write(file, contract.DEFAULT_HANDLERS, ResourceRequest("tasks", "title:string(1..200)"))
    url, command = postgres.database().app_url, ("-m", "tests.platform.app_with_contract")
    with serving(folder, url, command=command, ready=False, CONTRACT=str(file)) as service:
        yield service


def test_a_service_ahead_of_its_database_is_not_ready_and_says_why(ahead: Service) -> None:
    until(lambda: "the database lacks" in ahead.log_text())
    with ahead.http() as http:
        problem = http.get("/ready")
        assert problem.status_code == 503
        assert "lacks the contract's table tasks: see make migration" in problem.json()["detail"]


def test_what_is_there_is_served_and_what_is_not_answers_503(ahead: Service) -> None:
    with tenant(ahead, "Acme") as acme:
        assert acme.project("Apollo")["name"] == "Apollo"
        for method in ("GET", "POST"):
            body = {"title": "Write"} if method == "POST" else None
            answer = acme.http.request(method, f"/orgs/{acme.org}/tasks", json=body)
            assert answer.status_code == 503, answer.text
