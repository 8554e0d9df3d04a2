"""Databases that hold the tables of a contract, made by the planner's own revisions."""

import shutil
from pathlib import Path

from db import migrate, revisions
from dev.planner import planning
from openapi import contract
from openapi.contract import Contract
from tests.platform.fix_postgres import Database, Postgres

RESOURCES = sorted((Path(__file__).parent / "contracts" / "resources").glob("*.yaml"))


def migrations(folder: Path) -> Path:
    """Return a copy of db/migrations below `folder`, for revisions of a test."""
    copy = folder / "migrations"
    return copy if copy.exists() else Path(shutil.copytree(revisions.MIGRATIONS, copy))


def bring_up(database: Database, checked: Contract, folder: Path) -> Path | None:
    """Write the revision that the contract needs into `migrations(folder)`, run it and return its
    file. Raises `ContractError` for a change that is refused."""
    copy = migrations(folder)
    file = planning.write(planning.plan(checked, database.owner_url), folder=copy)
    if file is not None:
        migrate.upgrade(database.owner_url, folder=copy)
    return file


def database_of(postgres: Postgres, file: Path, folder: Path) -> Database:
    """Return a new database with the tables of the contract in `file`."""
    database = postgres.database()
    bring_up(database, contract.load(file, None), folder)
    return database
