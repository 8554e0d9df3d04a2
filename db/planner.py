"""`make migration`: compare the contract and the database, and write the revision in between.

Nothing is written while a change could lose something that the contract does not acknowledge.
"""

import os
import re
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg

from db import embedded, migrate, schema, tables
from db.demands import needed
from db.embedded import EmbeddedError
from db.migrate import MigrationError
from db.plans import catalogue, changes, ddl, revision
from db.plans.change import Change
from openapi import contract
from openapi.contract import Contract, ContractError, Fault
from openapi.documents import Place, at, table
from openapi.source import display


@dataclass(frozen=True)
class Plan:
    """What has to be done, in order, and what of it is refused."""

    changes: tuple[Change, ...]
    refused: tuple[Fault, ...]


def plan(checked: Contract, url: str) -> Plan:
    """Compare the contract with the database of `url`, whose owner that is; nothing is changed."""
    grants = {name: needed(checked, name) for name in checked.tables}
    own = {"alembic_version", *tables.metadata().tables} - checked.tables.keys()
    with catalogue.scratch(url) as connection:
        renamed = catalogue.rename(connection, checked.tables.values())
        was = {n: f for n, f in catalogue.current(connection).items() if n not in own}
        now = catalogue.wanted(connection, checked.tables, grants)
    new = [t for t in ddl.tables_in_order(checked.tables) if t.name not in was]
    found = [
        change
        for name, described in checked.tables.items()
        if name in was
        for change in changes.of_table(described, was[name], now[name], renamed.get(name, {}))
    ]
    early = [change for change in found if change.target not in {t.name for t in new}]
    late = [replace(change, online=False) for change in found if change not in early]
    found = [*early, *changes.new_tables(new, was, grants), *late]
    gone = {name: there for name, there in was.items() if name not in checked.tables}
    found += changes.dropped_tables(gone)
    refused = (_refusal(checked, change) for change in found)
    return Plan(tuple(found), tuple(sorted(fault for fault in refused if fault)))


def write(planned: Plan, name: str | None = None, folder: Path = schema.MIGRATIONS) -> Path | None:
    """Write the revision that follows the newest of `folder`, and return its file; None where
    nothing has to be done. Raises `ContractError` for what is refused."""
    if planned.refused:
        raise ContractError(planned.refused)
    if not planned.changes:
        return None
    before = schema.newest(folder)
    named = name or "_and_".join(dict.fromkeys(change.table for change in planned.changes))
    made = revision.render(f"{int(before) + 1:04d}", before, named[:60].strip("_"), planned.changes)
    file = folder / "versions" / made.name
    file.write_text(made.text)
    return file


def _refusal(checked: Contract, change: Change) -> Fault | None:
    """Return why a change is not made: it could lose something, and nobody says that it may."""
    if change.loss is None:
        return None
    place = _place(checked, change)
    if change.upgrade and _is_acknowledged(checked, place, change):
        return None
    reason = change.loss
    if change.upgrade:
        reason += f"; if that is meant, write x-acknowledge {_holder(checked, place, change)}"
    return checked.fault(place, reason)


def _place(checked: Contract, change: Change) -> Place:
    if change.table not in checked.tables:
        return ()
    here: Place = ("components", "schemas", checked.tables[change.table].schema)
    properties = table(at(checked.document, here), "properties")
    return (*here, "properties", change.column) if change.column in properties else here


def _is_acknowledged(checked: Contract, place: Place, change: Change) -> bool:
    """Whether the property says so, or else the schema or the root, by name: what stands there
    would cover all that is dropped later."""
    if "properties" in place and "x-acknowledge" in table(at(checked.document, place)):
        return True
    reason = table(at(checked.document, place[:3]), "x-acknowledge").get("reason", "")
    return bool(re.search(rf"\b{change.column or change.table}\b", reason))


def _holder(checked: Contract, place: Place, change: Change) -> str:
    """Say where an acknowledgement can stand: nothing stands beside a $ref."""
    if "properties" in place and "$ref" not in table(at(checked.document, place)):
        return "there"
    owner = f"on the schema {place[2]}" if place else "at the root"
    return f"{owner}, with a reason that names `{change.column or change.table}`"


@contextmanager
def migrated(folder: Path = schema.MIGRATIONS) -> Iterator[str]:
    """Yield the URL of a PostgreSQL of our own, at the newest revision of `folder`."""
    with (
        TemporaryDirectory() as directory,
        embedded.running(Path(directory) / "postgresql", fsync=False) as server,
    ):
        migrate.upgrade(server.url(), folder=folder)
        yield server.url()


@contextmanager
def _database(options: Namespace) -> Iterator[str]:
    """Yield the URL of what the contract is compared with: the database that is given, else what
    the migrations add up to. Raises `MigrationError` for one that is not at the newest revision."""
    url = os.environ.get("MIGRATION_DATABASE_URL")
    if not url or options.check:
        with migrated() as own:
            yield own
    elif schema.is_current(url):
        yield url
    else:
        raise MigrationError("the database is not at the newest revision: run make migrate first")


def main(arguments: Sequence[str]) -> int:
    """Write the revision and print its file, or with --check say whether one is due (1)."""
    parser = ArgumentParser(prog="python -m db.planner", description=__doc__)
    parser.add_argument("--name", help="what the file is called behind its number")
    parser.add_argument("--check", action="store_true", help="write nothing; 1 when one is due")
    options = parser.parse_args(arguments)
    if options.name and not re.fullmatch(r"[a-z][a-z0-9_]{0,59}", options.name):
        parser.error("--name: write it in snake_case, at most 60 characters")
    try:
        checked = contract.load()
        with _database(options) as url:
            planned = plan(checked, url)
        if options.check:
            return _said(planned)
        file = write(planned, options.name)
    except (ContractError, MigrationError, EmbeddedError, psycopg.Error) as error:
        print(error, file=sys.stderr)
        return 1
    print(display(file) if file else "The migrations are what the contract says.")
    return 0


def _said(planned: Plan) -> int:
    if not planned.changes:
        print("The migrations are what the contract says.")
        return 0
    print("The contract and the migrations disagree; make migration writes:", file=sys.stderr)
    for change in planned.changes:
        print(f"  {change.table}: {change.what}", file=sys.stderr)
    for fault in planned.refused:
        print(f"refused: {fault}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
