"""Services of the contracts in tests/contracts/resources/, each on a database of its own."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from openapi import contract
from openapi.contract import Contract, Operation
from tests.platform.fix_planner import database_of
from tests.platform.fix_postgres import Database, Postgres
from tests.platform.fix_service import Service, Tenant, serving

CONTRACTS = Path(__file__).parent / "contracts" / "resources"
NAMES = sorted(file.stem for file in CONTRACTS.glob("*.yaml"))


@dataclass
class Desk:
    """A running service of a contract that has tables."""

    service: Service
    contract: Contract
    database: Database


@pytest.fixture(scope="session")
def ticket_desk(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    with desk("ticket_desk", postgres, tmp_path_factory) as made:
        yield made


@pytest.fixture(scope="session")
def clinic(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    with desk("clinic", postgres, tmp_path_factory) as made:
        yield made


@pytest.fixture(scope="session")
def inventory(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    with desk("inventory", postgres, tmp_path_factory) as made:
        yield made


@pytest.fixture(scope="session")
def every_type(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    with desk("every_type", postgres, tmp_path_factory) as made:
        yield made


@contextmanager
def desk(
    name: str, postgres: Postgres, folders: pytest.TempPathFactory, **settings: str
) -> Iterator[Desk]:
    """Run the service of a contract from an empty database on.

    With few connections: these services run side by side until the end, on one server.
    """
    settings = {"DATABASE_CONNECTIONS": "1", **settings}
    file = CONTRACTS / f"{name}.yaml"
    folder, command = folders.mktemp(name), ("-m", "tests.platform.app_with_contract")
    loaded, database = contract.load(file), database_of(postgres, file, folder)
    with serving(
        folder, database.app_url, command=command, CONTRACT=str(file), **settings
    ) as service:
        yield Desk(service, loaded, database)


class Owner(Tenant):
    """A tenant who fills tables by the operations and the examples of a contract."""

    def __init__(self, desk: Desk, name: str) -> None:
        super().__init__(desk.service, name)
        self.contract = desk.contract
        self.rows: dict[str, dict[str, Any]] = {}  # one of each table

    def row(self, table: str) -> dict[str, Any]:
        """Return the row of a table, made when it is first asked for."""
        if table not in self.rows:
            create = self.contract.operations[f"{table}.create"]
            self.rows[table] = self.post(self.path(create), **self.body(create))
        return self.rows[table]

    def id(self, table: str) -> str:
        return str(self.row(table)["id"])

    def path(self, operation: Operation, id_of: Callable[[str], str] | None = None) -> str:
        """Return the path of an operation on this tenant's rows, or on others of these tables."""
        referred = {r.column: r.table for r in self.contract.tables[operation.tag].references}
        _, *names = re.findall(r"\{(\w+)\}", operation.path)
        ids = {name: (id_of or self.id)(referred.get(name, operation.tag)) for name in names}
        return operation.path.format(org_id=self.org, **ids)

    def body(
        self, operation: Operation, id_of: Callable[[str], str] | None = None
    ) -> dict[str, Any]:
        """Return the example of a body, its references led to rows as those of `path`."""
        (media, *_) = (operation.body or {"content": {"": {"example": {}}}})["content"].values()
        referred = {r.column: r.table for r in self.contract.tables[operation.tag].references}
        return {
            name: (id_of or self.id)(referred[name]) if name in referred and value else value
            for name, value in media["example"].items()
        }


@contextmanager
def owner(desk: Desk, name: str) -> Iterator[Owner]:
    made = Owner(desk, name)
    try:
        yield made
    finally:
        made.http.close()
