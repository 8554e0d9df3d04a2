"""The address of the database, read again for each connection."""

from collections.abc import Callable
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict


def from_file(file: Path) -> Callable[[], str]:
    """Return a function that reads the URL in `file`: a new password or address needs no restart.

    The function raises `psycopg.OperationalError`, whose text reveals nothing of the file.
    """

    def read() -> str:
        try:
            url = file.read_text().strip()
            conninfo_to_dict(url)
        except (OSError, ValueError, psycopg.Error):
            raise psycopg.OperationalError(f"{file} contains no database URL") from None
        return url

    return read
