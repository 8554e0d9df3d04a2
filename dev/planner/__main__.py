"""`make migration`: write the revision that aligns the migrations with the contract's tables."""

import os
import re
import sys
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import psycopg

from db import migrate, revisions
from db.errors import first_line
from db.migrate import MigrationError
from db.revisions import RevisionError
from dev.local.embedded import EmbeddedError
from dev.planner.planning import MAX_NAME_LENGTH, Plan, migrated_database, plan, write
from openapi import contract
from openapi.contract import ContractError
from openapi.yaml_loader import display

UP_TO_DATE = "Migrations are up to date."


def main(arguments: Sequence[str]) -> int:
    """Write the revision and print its path, or check with --check; return the exit code.

    0 when the migrations are up to date or were written, 1 when --check finds changes, and on
    errors.
    """
    parser = ArgumentParser(prog="python -m dev.planner", description=__doc__)
    parser.add_argument("--name", help="name of the revision, used after its number")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 if a revision is missing"
    )
    options = parser.parse_args(arguments)
    if options.name and not re.fullmatch(
        rf"[a-z][a-z0-9_]{{0,{MAX_NAME_LENGTH - 1}}}", options.name
    ):
        parser.error(f"--name: must be snake_case, at most {MAX_NAME_LENGTH} characters")
    try:
        checked = contract.load()
        with _database(is_check=options.check) as url:
            planned = plan(checked, url)
        if options.check:
            return _report(planned)
        file = write(planned, options.name)
    except psycopg.Error as error:
        print(f"the database: {first_line(error)}", file=sys.stderr)
        return 1
    except (ContractError, MigrationError, RevisionError, EmbeddedError) as error:
        print(error, file=sys.stderr)
        return 1
    print(display(file) if file else UP_TO_DATE)
    return 0


@contextmanager
def _database(*, is_check: bool) -> Iterator[str]:
    """Yield the URL of the database to compare: the configured one, else a migrated temporary one.

    A check always uses a temporary one. Raises `MigrationError` if the configured one is behind.
    """
    url = os.environ.get(migrate.URL_SETTING)
    if is_check or not url:
        with migrated_database() as temporary:
            yield temporary
    elif revisions.is_up_to_date(url):
        yield url
    else:
        raise MigrationError("the database is not at the newest revision: run make migrate first")


def _report(planned: Plan) -> int:
    if not planned.changes:
        print(UP_TO_DATE)
        return 0
    print("The contract has changes without a revision. Run make migration:", file=sys.stderr)
    for change in planned.changes:
        print(f"  {change.table}: {change.description}", file=sys.stderr)
    for issue in planned.issues:
        print(f"rejected: {issue}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
