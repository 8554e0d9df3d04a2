"""Which revision a database is at, and which is the newest that this release knows."""

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
    """Return the newest revision below `folder`: the greatest of NNNN_name.py."""
    files = (file for location in locations(folder) for file in location.iterdir())
    return max(m[1] for f in files if (m := re.fullmatch(r"(\d{4})_\w+\.py", f.name)))


def locations(folder: Path) -> tuple[Path, Path]:
    """Return where revisions are: those of the platform, and the service's own."""
    return folder / "platform", folder / "versions"


async def current(connection: psycopg.AsyncConnection[Any]) -> str | None:
    """Return the revision that the database is at, None before the first."""
    try:
        row = await (await connection.execute(_REVISION)).fetchone()
    except (psycopg.errors.UndefinedTable, psycopg.errors.InsufficientPrivilege):
        return None
    return str(row[0]) if row else None


def is_up_to_date(url: str) -> bool:
    """Whether a migration would change nothing, asked without Alembic; False also when unknown."""
    try:
        with psycopg.connect(url, connect_timeout=5) as connection:
            row = connection.execute(_REVISION).fetchone()
            is_supported = connection.info.server_version >= server_versions.MINIMUM
            return is_supported and bool(row and row[0] >= head())
    except psycopg.Error:
        return False
