"""What a run needs: a database, a service that uses it, and the certainty of its contract."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from db.errors import first_line
from evidence.certificate.client import Client
from evidence.certificate.results import Request
from evidence.harness.postgres import Database, execute, new_database
from evidence.harness.processes import HarnessError, last_line
from evidence.harness.services import serving
from openapi.contract import Contract

HOST = "127.0.0.1"
# One connection of each kind, so that tenants share it.
ENVIRONMENT = {
    "DATABASE_CONNECTIONS": "1",
    "HOST": HOST,
    "RATE_LIMITS": "false",
    "DRAIN_SECONDS": "0",
    "VALIDATE_RESPONSES": "true",
}


@dataclass(frozen=True)
class RunningService:
    """The service to certify; without `keys_dir` its signing keys are not known."""

    host: str
    port: int
    keys_dir: Path | None


class ContractMismatch(Exception):
    """The service does not serve the contract of the working tree."""


def require_same_contract(contract: Contract, client: Client) -> None:
    """Raise `ContractMismatch` unless the service reports the hash of this contract."""
    response = client.send(Request("GET", "/"))
    try:
        served = str(json.loads(response.body)["contract"])
    except (LookupError, TypeError, ValueError):
        raise ContractMismatch(
            f"GET / responded {response.status} and reports no contract"
        ) from None
    if served != f"sha256:{contract.hash}":
        raise ContractMismatch(
            f"the service serves {served}, but the working tree has sha256:{contract.hash}."
            " Nothing was run"
        )


@contextmanager
def mutated_database(superuser_url: str, sql: str, undo_sql: str) -> Iterator[Database]:
    """Yield a new database after running `sql` on it; run `undo_sql` at the end.

    `undo_sql` repairs what belongs to the server, such as roles. Raises `HarnessError`.
    """
    with new_database(superuser_url, "certify") as database:
        try:
            if sql:
                execute(database.superuser_url, sql)
        except psycopg.Error as error:
            raise HarnessError(f"the database: {first_line(error)}") from error
        try:
            yield database
        finally:
            if undo_sql:
                execute(database.superuser_url, undo_sql)


@contextmanager
def started_service(folder: Path, database_url: str) -> Iterator[RunningService]:
    """Run the service of this tree. Raises `HarnessError`, also if it ends early."""
    folder.mkdir()
    with serving(folder, database_url, environment=ENVIRONMENT) as service:
        yield RunningService(HOST, service.port, service.keys_dir)
        if not service.is_running:
            raise HarnessError(f"the service ended: {last_line(service.log)}")


def connect(url: str) -> psycopg.Connection[Any]:
    """Return an autocommit connection."""
    return psycopg.connect(url, autocommit=True)
