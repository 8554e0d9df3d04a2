"""`make migration`: compare the contract and the database, and write the revision in between."""

import os
import re
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import psycopg

from db import revisions
from db.migrate import MigrationError
from dev.local.embedded import EmbeddedError
from dev.planner.planning import Plan, migrated, plan, write
from openapi import contract
from openapi.contract import ContractError
from openapi.yaml_loader import display


@contextmanager
def _database(options: Namespace) -> Iterator[str]:
    """Yield the URL of what the contract is compared with: the database that is given, else what
    the migrations add up to. Raises `MigrationError` for one that is not at the newest revision."""
    url = os.environ.get("MIGRATION_DATABASE_URL")
    if not url or options.check:
        with migrated() as own:
            yield own
    elif revisions.is_up_to_date(url):
        yield url
    else:
        raise MigrationError("the database is not at the newest revision: run make migrate first")


def main(arguments: Sequence[str]) -> int:
    """Write the revision and print its file, or with --check say whether one is due (1)."""
    parser = ArgumentParser(prog="python -m dev.planner", description=__doc__)
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
