"""Services of the contracts in tests/platform/contracts/resources/, each on its own database."""

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
class ResourceService:
    """A running service of a contract with tables."""

    service: Service
    contract: Contract
    database: Database


@pytest.fixture(scope="session")
def ticket_desk(
    postgres: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ResourceService]:
    with serving_resources("ticket_desk", postgres, tmp_path_factory) as running:
        yield running


@pytest.fixture(scope="session")
def clinic(
    postgres: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ResourceService]:
    with serving_resources("clinic", postgres, tmp_path_factory) as running:
        yield running


@pytest.fixture(scope="session")
def inventory(
    postgres: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ResourceService]:
    with serving_resources("inventory", postgres, tmp_path_factory) as running:
        yield running


@pytest.fixture(scope="session")
def every_type(
    postgres: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ResourceService]:
    with serving_resources("every_type", postgres, tmp_path_factory) as running:
        yield running


@contextmanager
def serving_resources(
    name: str, postgres: Postgres, folders: pytest.TempPathFactory, **settings: str
) -> Iterator[ResourceService]:
    """Serve the contract `name` on a new database.

    With one connection of each kind: these services run side by side on one server.
    """
    settings = {"DATABASE_CONNECTIONS": "1", **settings}
    file = CONTRACTS / f"{name}.yaml"
    folder, command = folders.mktemp(name), ("-m", "tests.platform.app_with_contract")
    loaded, database = contract.load(file), database_of(postgres, file, folder)
    with serving(
        folder, database.app_url, command=command, CONTRACT=str(file), **settings
    ) as service:
        yield ResourceService(service, loaded, database)


class ResourceTenant(Tenant):
    """A tenant that fills tables by calling the contract's operations with their examples."""

    def __init__(self, resources: ResourceService, name: str) -> None:
        super().__init__(resources.service, name)
        self.contract = resources.contract
        self.rows: dict[str, dict[str, Any]] = {}  # one per table

    def row(self, table: str) -> dict[str, Any]:
        """Return the tenant's row of a table; the first call creates it."""
        if table not in self.rows:
            create = self.contract.operations[f"{table}.create"]
            self.rows[table] = self.post(self.path(create), **self.body(create))
        return self.rows[table]

    def id(self, table: str) -> str:
        return str(self.row(table)["id"])

    def path(self, operation: Operation, id_of: Callable[[str], str] | None = None) -> str:
        """Return the operation's path for this tenant's rows, or for the ids `id_of(table)`."""
        references = {r.column: r.table for r in self.contract.tables[operation.tag].references}
        _, *names = re.findall(r"\{(\w+)\}", operation.path)
        ids = {name: (id_of or self.id)(references.get(name, operation.tag)) for name in names}
        return operation.path.format(org_id=self.org, **ids)

    def body(
        self, operation: Operation, id_of: Callable[[str], str] | None = None
    ) -> dict[str, Any]:
        """Return the example of the body; references are filled in as in `path`."""
        (media, *_) = (operation.body or {"content": {"": {"example": {}}}})["content"].values()
        references = {r.column: r.table for r in self.contract.tables[operation.tag].references}
        return {
            name: (id_of or self.id)(references[name]) if name in references and value else value
            for name, value in media["example"].items()
        }


@contextmanager
def resource_tenant(resources: ResourceService, name: str) -> Iterator[ResourceTenant]:
    """Yield a new tenant of a service."""
    created = ResourceTenant(resources, name)
    try:
        yield created
    finally:
        created.http.close()
