"""A database without what the contract expects is a not ready reason, and not an internal error."""

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from db import expected_tables
from db.expected_tables import PRIVILEGES, ExpectedTable
from dev.scaffold.__main__ import write
from dev.scaffold.request import ResourceRequest
from openapi import contract
from tests.platform.fix_postgres import Database, Postgres
from tests.platform.fix_service import Service, serving, tenant, until

REMEDY = "run make migration, then make migrate"


@pytest.fixture(scope="module")
def incomplete(postgres: Postgres) -> Database:
    """A database with a table `order`, whose name must be quoted, without some privileges."""
    database = postgres.database()
    with psycopg.connect(database.owner_url, autocommit=True) as owner:
        owner.execute('create table "order" (org_id uuid, id uuid, "from" text, gone text)')
        owner.execute('alter table "order" drop column gone')
        owner.execute('grant select, insert on "order" to covenant_app')
    return database


def missing_from(database: Database, *expected: ExpectedTable) -> str | None:
    async def find() -> str | None:
        async with await psycopg.AsyncConnection.connect(database.app_url) as connection:
            return await expected_tables.find_missing(connection, expected)

    return asyncio.run(find())


def test_nothing_is_missing_after_the_migrations(database: Database) -> None:
    assert missing_from(database, *expected_tables.from_contract(contract.load())) is None
    assert missing_from(database) is None


@pytest.mark.parametrize(
    ("expected", "missing"),
    [
        (ExpectedTable("order", ("org_id", "id", "from"), ("select", "insert")), None),
        (ExpectedTable("tasks", ("id",), PRIVILEGES), "table `tasks` is"),
        (ExpectedTable("order", ("id", "gone"), ("select",)), "column `order.gone` is"),
        (
            ExpectedTable("order", ("id",), PRIVILEGES),
            "update privilege on `order`, delete privilege on `order` are",
        ),
        (ExpectedTable('"; drop', ("id",), ()), 'table `"; drop` is'),
    ],
)
def test_missing_tables_columns_and_privileges_are_named(
    incomplete: Database, expected: ExpectedTable, missing: str | None
) -> None:
    reason = missing_from(incomplete, expected)
    assert reason == (missing and f"{missing} missing from the database: {REMEDY}")


def test_only_the_first_missing_items_are_listed(incomplete: Database) -> None:
    tables = [ExpectedTable(f"t{n}", ("id",), PRIVILEGES) for n in range(7)]
    reason = missing_from(incomplete, *tables)
    assert reason is not None
    assert reason.endswith(f"table `t4` and 2 more are missing from the database: {REMEDY}")


@pytest.fixture(scope="module")
def ahead(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service whose contract has tasks, on a database without their table."""
    folder = tmp_path_factory.mktemp("ahead")
    file = Path(shutil.copy(contract.DEFAULT, folder / "openapi.yaml"))
    write(file, contract.DEFAULT_HANDLERS, ResourceRequest("tasks", "title:string(1..200)"))
    url, command = postgres.database().app_url, ("-m", "tests.platform.app_with_contract")
    with serving(folder, url, command=command, ready=False, CONTRACT=str(file)) as service:
        yield service


def test_a_service_ahead_of_its_database_is_not_ready_and_reports_why(ahead: Service) -> None:
    reason = f"table `tasks` is missing from the database: {REMEDY}"
    until(lambda: reason in ahead.log_text())
    with ahead.http() as http:
        response = http.get("/ready")
        assert response.status_code == 503
        assert response.json()["detail"] == reason.capitalize()


def test_existing_tables_are_served_and_a_missing_one_is_503(ahead: Service) -> None:
    with tenant(ahead, "Acme") as acme:
        assert acme.project("Apollo")["name"] == "Apollo"
        for method in ("GET", "POST"):
            body = {"title": "Write"} if method == "POST" else None
            response = acme.http.request(method, f"/orgs/{acme.org}/tasks", json=body)
            assert response.status_code == 503, response.text
