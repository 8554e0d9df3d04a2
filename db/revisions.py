"""The revisions that this release knows, and how those of a database compare with them.

Revisions form two lines: the service's (db/migrations/versions, `0007_name`) and the platform's
(db/migrations/platform, `p0001_name`), which begins beside revision 0006. The id of a revision is
the name of its file, so that two branches can each add the next number. The number tells a database
that is ahead of this release from one that is behind. The ids of the first six are their numbers.
"""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import psycopg

from db import server_versions

MIGRATIONS = Path(__file__).parent / "migrations"
MAX_ID_LENGTH = 32  # of alembic_version.version_num
SERVICE_LINE, PLATFORM_LINE = "", "p"
_APPLIED = "select version_num from public.alembic_version"
_ID = re.compile(rf"({PLATFORM_LINE}?)(\d{{4}})(?:_\w+)?")
_ASSIGNMENT = r"""(?m)^{} = ["'](.*)["']$"""


class RevisionError(Exception):
    """The revision files contradict each other. The message names them and the remedy."""


@dataclass(frozen=True)
class Revision:
    """A revision file. `parent` is the id of the revision before it, None for the first."""

    id: str
    parent: str | None
    file: Path

    @property
    def line(self) -> str:
        """`SERVICE_LINE` or `PLATFORM_LINE`."""
        return _line_and_number(self.id)[0]

    @property
    def number(self) -> int:
        """The number within the line, from 1."""
        return _line_and_number(self.id)[1]


class History:
    """All revisions of a release."""

    def __init__(self, revisions: Collection[Revision]) -> None:
        self.by_id = {revision.id: revision for revision in revisions}
        parents = {revision.parent for revision in revisions}
        self.heads = tuple(sorted(self.by_id.keys() - parents))
        self._newest: dict[str, Revision] = {}
        for revision in sorted(revisions, key=lambda revision: revision.number):
            self._newest[revision.line] = revision

    def newest(self, line: str) -> Revision:
        """Return the revision with the highest number."""
        return self._newest[line]

    def tips(self, line: str) -> list[Revision]:
        """Return the revisions that no other one of the line follows: more than one is an error."""
        own = [revision for revision in self.by_id.values() if revision.line == line]
        parents = {revision.parent for revision in own}
        return sorted((r for r in own if r.id not in parents), key=lambda r: r.file.name)

    def missing(self, applied: Collection[str]) -> list[str]:
        """Return the revisions that a database with the heads `applied` has not run."""
        done = {id for head in applied for id in self._with_ancestors(head)}
        return sorted(self.by_id.keys() - done)

    def unknown(self, applied: Collection[str]) -> list[str]:
        """Return the heads that are neither in this release nor newer: those of another branch."""
        return sorted(h for h in applied if h not in self.by_id and not self._is_newer(h))

    def is_ahead(self, applied: Collection[str]) -> bool:
        """Return whether a newer release has migrated the database."""
        return any(head not in self.by_id and self._is_newer(head) for head in applied)

    def reason_not_ready(self, applied: Collection[str]) -> str | None:
        """Return why this release cannot serve from the database, or None."""
        if unknown := self.unknown(applied):
            return f"the database has revision {label(unknown)}, which this release does not have"
        if self.missing(applied):
            return f"migrations are behind ({label(applied)} of {label(self.heads)})"
        return None

    def _is_newer(self, id: str) -> bool:
        line, number = _line_and_number(id)
        return line not in self._newest or number > self._newest[line].number

    def _with_ancestors(self, id: str) -> Iterator[str]:
        """Yield a revision and those before it. What is newer follows the newest of its line."""
        revision = self.by_id.get(id)
        if revision is None and self._is_newer(id):
            revision = self._newest.get(_line_and_number(id)[0])
        while revision:
            yield revision.id
            revision = self.by_id.get(revision.parent or "")


def _line_and_number(id: str) -> tuple[str, int]:
    match = _ID.fullmatch(id)
    return (match[1], int(match[2])) if match else (SERVICE_LINE, 0)


def label(ids: Collection[str]) -> str:
    """Return revisions as text."""
    return ", ".join(sorted(ids)) or "none"


@cache
def history() -> History:
    """Return the revisions of this release. Raises `RevisionError`."""
    return read(MIGRATIONS)


def locations(folder: Path) -> tuple[Path, Path]:
    """Return the two directories with revisions: the platform's and the service's."""
    return folder / "platform", folder / "versions"


def read(folder: Path) -> History:
    """Return the revisions below `folder`. Raises `RevisionError` unless each line has one head."""
    found = read_branches(folder)
    for line in (SERVICE_LINE, PLATFORM_LINE):
        tips = found.tips(line)
        if len(tips) > 1:
            names = " and ".join(str(tip.file) for tip in tips)
            raise RevisionError(
                f"{names}: two branches added revisions. Run make renumber, which moves those of"
                " one branch behind those of the other"
            )
    return found


def read_branches(folder: Path) -> History:
    """Return the revisions below `folder`, of which several may be the last of a line.

    Raises `RevisionError` for a file that cannot be one.
    """
    found: dict[str, Revision] = {}
    for location in locations(folder):
        for file in sorted(location.glob("*.py")):
            revision = _read_file(file)
            if other := found.get(revision.id):
                raise RevisionError(f"{file} and {other.file}: have the same revision")
            found[revision.id] = revision
    for revision in found.values():
        if revision.parent and revision.parent not in found:
            raise RevisionError(f"{revision.file}: down_revision {revision.parent} does not exist")
    return History(found.values())


def _read_file(file: Path) -> Revision:
    text = file.read_text()
    id = re.search(_ASSIGNMENT.format("revision"), text)
    parent = re.search(_ASSIGNMENT.format("down_revision"), text)
    if id is None or id[1] not in (file.stem, file.stem[:4]):
        raise RevisionError(f'{file}: must contain the line revision = "{file.stem}"')
    return Revision(id[1], parent[1] if parent else None, file)


async def applied(connection: psycopg.AsyncConnection[Any]) -> frozenset[str]:
    """Return the heads of the database; none before the first migration."""
    try:
        rows = await (await connection.execute(_APPLIED)).fetchall()
    except (psycopg.errors.UndefinedTable, psycopg.errors.InsufficientPrivilege):
        return frozenset()
    return frozenset(str(row[0]) for row in rows)


def is_up_to_date(url: str) -> bool:
    """Return whether a migration would change nothing; False if the revision cannot be read.

    Does not import Alembic. Raises `RevisionError`.
    """
    known = history()
    try:
        with psycopg.connect(url, connect_timeout=5) as connection:
            rows = connection.execute(_APPLIED).fetchall()
            is_supported = connection.info.server_version >= server_versions.MINIMUM
    except psycopg.Error:
        return False
    return is_supported and known.reason_not_ready([str(row[0]) for row in rows]) is None
