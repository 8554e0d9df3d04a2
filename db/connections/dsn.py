"""Where the database is and how to sign in there, read anew for each connection."""

from collections.abc import Callable
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict


def from_file(file: Path) -> Callable[[], str]:
    """Return what reads the URL in `file`: a new password or address there needs no restart.

    It raises `psycopg.OperationalError`, which tells nothing of what the file holds.
    """

    def read() -> str:
        try:
            url = file.read_text().strip()
            conninfo_to_dict(url)
        except (OSError, ValueError, psycopg.Error):
            raise psycopg.OperationalError(f"no URL of a database in {file}") from None
        return url

    return read
