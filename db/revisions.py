"""The schema revision of a database, and the newest one that this release knows."""

import re
from functools import cache
from pathlib import Path
from typing import Any

import psycopg

from db import server_versions

MIGRATIONS = Path(__file__).parent / "migrations"
_REVISION = "select version_num from public.alembic_version"


@cache
def head() -> str:
    """Return the newest revision that this release knows."""
    return newest(MIGRATIONS)


def newest(folder: Path) -> str:
    """Return the newest revision below `folder`: the highest number of its NNNN_name.py files."""
    files = (file for location in locations(folder) for file in location.iterdir())
    return max(m[1] for f in files if (m := re.fullmatch(r"(\d{4})_\w+\.py", f.name)))


def locations(folder: Path) -> tuple[Path, Path]:
    """Return the two directories with revisions: the platform's and the service's."""
    return folder / "platform", folder / "versions"


async def current(connection: psycopg.AsyncConnection[Any]) -> str | None:
    """Return the revision of the database, or None before the first migration."""
    try:
        row = await (await connection.execute(_REVISION)).fetchone()
    except (psycopg.errors.UndefinedTable, psycopg.errors.InsufficientPrivilege):
        return None
    return str(row[0]) if row else None


def is_up_to_date(url: str) -> bool:
    """Return whether a migration would change nothing; False if the revision cannot be read.

    Does not import Alembic.
    """
    try:
        with psycopg.connect(url, connect_timeout=5) as connection:
            row = connection.execute(_REVISION).fetchone()
            is_supported = connection.info.server_version >= server_versions.MINIMUM
            return is_supported and bool(row and row[0] >= head())
    except psycopg.Error:
        return False
