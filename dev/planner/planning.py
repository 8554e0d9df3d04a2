"""`make migration`: compare the contract and the database, and write the revision in between.

Nothing is written while a change could lose something that the contract does not acknowledge.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from db import migrate, revisions
from db.expected_tables import required_privileges
from dev.local import embedded
from dev.planner import catalogue, ddl, platform_tables, revision, table_changes
from dev.planner.change import Change
from openapi.contract import Contract, ContractError, Issue
from openapi.documents import NodePath, mapping_at, node_at


@dataclass(frozen=True)
class Plan:
    """What has to be done, in order, and what of it is refused."""

    changes: tuple[Change, ...]
    refused: tuple[Issue, ...]


def plan(checked: Contract, url: str) -> Plan:
    """Compare the contract with the database of `url`, whose owner that is; nothing is changed."""
    grants = {name: required_privileges(checked, name) for name in checked.tables}
    own = {"alembic_version", *platform_tables.metadata().tables} - checked.tables.keys()
    with catalogue.scratch(url) as connection:
        renamed = catalogue.rename(connection, checked.tables.values())
        was = {n: f for n, f in catalogue.current(connection).items() if n not in own}
        now = catalogue.wanted(connection, checked.tables, grants)
    new = [t for t in ddl.tables_in_order(checked.tables) if t.name not in was]
    found = [
        change
        for name, described in checked.tables.items()
        if name in was
        for change in table_changes.of_table(described, was[name], now[name], renamed.get(name, {}))
    ]
    early = [change for change in found if change.target not in {t.name for t in new}]
    late = [replace(change, online=False) for change in found if change not in early]
    found = [*early, *table_changes.new_tables(new, was, grants), *late]
    gone = {name: there for name, there in was.items() if name not in checked.tables}
    found += table_changes.dropped_tables(gone)
    refused = (_refusal(checked, change) for change in found)
    return Plan(tuple(found), tuple(sorted(fault for fault in refused if fault)))


def write(
    planned: Plan, name: str | None = None, folder: Path = revisions.MIGRATIONS
) -> Path | None:
    """Write the revision that follows the newest of `folder`, and return its file; None where
    nothing has to be done. Raises `ContractError` for what is refused."""
    if planned.refused:
        raise ContractError(planned.refused)
    if not planned.changes:
        return None
    before = revisions.newest(folder)
    named = name or "_and_".join(dict.fromkeys(change.table for change in planned.changes))
    made = revision.render(f"{int(before) + 1:04d}", before, named[:60].strip("_"), planned.changes)
    file = folder / "versions" / made.name
    file.write_text(made.text)
    return file


def _refusal(checked: Contract, change: Change) -> Issue | None:
    """Return why a change is not made: it could lose something, and nobody says that it may."""
    if change.loss is None:
        return None
    place = _place(checked, change)
    if change.upgrade and _is_acknowledged(checked, place, change):
        return None
    reason = change.loss
    if change.upgrade:
        reason += f"; if that is meant, write x-acknowledge {_holder(checked, place, change)}"
    return checked.issue(place, reason)


def _place(checked: Contract, change: Change) -> NodePath:
    if change.table not in checked.tables:
        return ()
    here: NodePath = ("components", "schemas", checked.tables[change.table].schema)
    properties = mapping_at(node_at(checked.document, here), "properties")
    return (*here, "properties", change.column) if change.column in properties else here


def _is_acknowledged(checked: Contract, place: NodePath, change: Change) -> bool:
    """Whether the property says so, or else the schema or the root, by name: what stands there
    would cover all that is dropped later."""
    if "properties" in place and "x-acknowledge" in mapping_at(node_at(checked.document, place)):
        return True
    reason = mapping_at(node_at(checked.document, place[:3]), "x-acknowledge").get("reason", "")
    return bool(re.search(rf"\b{change.column or change.table}\b", reason))


def _holder(checked: Contract, place: NodePath, change: Change) -> str:
    """Say where an acknowledgement can stand: nothing stands beside a $ref."""
    if "properties" in place and "$ref" not in mapping_at(node_at(checked.document, place)):
        return "there"
    owner = f"on the schema {place[2]}" if place else "at the root"
    return f"{owner}, with a reason that names `{change.column or change.table}`"


@contextmanager
def migrated(folder: Path = revisions.MIGRATIONS) -> Iterator[str]:
    """Yield the URL of a PostgreSQL of our own, at the newest revision of `folder`."""
    with (
        TemporaryDirectory() as directory,
        embedded.running(Path(directory) / "postgresql", fsync=False) as server,
    ):
        migrate.upgrade(server.url(), folder=folder)
        yield server.url()
