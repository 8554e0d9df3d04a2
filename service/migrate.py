"""`migrate`: the schema of MIGRATION_DATABASE_URL, as its owner."""

import os
import signal

from db import migrate as schema
from db.migrate import MigrationError
from service.exits import exit_with


def migrate() -> None:
    """Bring the schema to the newest revision and say from where to where."""
    # As the first process of a container it would have no default for the signal.
    signal.signal(signal.SIGTERM, lambda *_: exit_with("migrate: stopped by SIGTERM", 143))
    url = os.environ.get("MIGRATION_DATABASE_URL")
    if not url:
        exit_with("MIGRATION_DATABASE_URL: missing")
    try:
        before, after = schema.upgrade(url)
    except MigrationError as error:
        exit_with(f"migrate: {error}")
    print(
        f"migrate: {before or 'nothing'} -> {after}" if before != after else f"migrate: at {after}"
    )
