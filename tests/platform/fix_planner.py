"""Databases with the tables of a contract, created by the planner's own revisions."""

import shutil
from pathlib import Path

from db import migrate, revisions
from dev.planner import planning
from openapi import contract
from openapi.contract import Contract
from tests.platform.fix_postgres import Database, Postgres

RESOURCES = sorted((Path(__file__).parent / "contracts" / "resources").glob("*.yaml"))


def migrations_copy(folder: Path) -> Path:
    """Return a copy of db/migrations below `folder`, to which a test can add revisions."""
    copy = folder / "migrations"
    return copy if copy.exists() else Path(shutil.copytree(revisions.MIGRATIONS, copy))


def plan_and_migrate(database: Database, checked: Contract, folder: Path) -> Path | None:
    """Write the revision that the contract needs into `migrations_copy(folder)`, and run it.

    Returns its file, or None if there are no changes. Raises `ContractError` if one is rejected.
    """
    copy = migrations_copy(folder)
    file = planning.write(planning.plan(checked, database.owner_url), folder=copy)
    if file is not None:
        migrate.upgrade(database.owner_url, folder=copy)
    return file


def database_of(postgres: Postgres, file: Path, folder: Path) -> Database:
    """Return a new database with the tables of the contract in `file`."""
    database = postgres.database()
    plan_and_migrate(database, contract.load(file, None), folder)
    return database
