"""Plans the changes between the contract's tables and a database, and writes them as a revision.

No revision is written while a change could lose data that the contract does not acknowledge.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from db import migrate, revisions
from db.expected_tables import required_privileges
from db.revisions import SERVICE_LINE
from dev.local import embedded
from dev.planner import catalogue, ddl, platform_tables, revision, table_changes
from dev.planner.change import Change
from openapi.contract import Contract, ContractError, Issue
from openapi.documents import NodePath, mapping_at, node_at

MAX_NAME_LENGTH = revisions.MAX_ID_LENGTH - len("0007_")


@dataclass(frozen=True)
class Plan:
    """The changes in order, and an issue for each that the contract would have to acknowledge."""

    changes: tuple[Change, ...]
    issues: tuple[Issue, ...]


def plan(contract: Contract, url: str) -> Plan:
    """Return what aligns the database of `url` with the contract; changes nothing.

    `url` must be the owner's. Raises `psycopg.Error`.
    """
    grants = {name: required_privileges(contract, name) for name in contract.tables}
    platform = {"alembic_version", *platform_tables.metadata().tables} - contract.tables.keys()
    with catalogue.rolled_back_connection(url) as connection:
        renames = catalogue.rename_columns(connection, contract.tables.values())
        current = catalogue.current_tables(connection)
        before = {name: state for name, state in current.items() if name not in platform}
        after = catalogue.contract_tables(connection, contract.tables, grants)
    new = [t for t in ddl.in_dependency_order(contract.tables) if t.name not in before]
    alterations = [
        change
        for name, table in contract.tables.items()
        if name in before
        for change in table_changes.alter_table(
            table, before[name], after[name], renames.get(name, {})
        )
    ]
    # A foreign key to a new table follows its creation, and joins its transaction.
    new_names = {table.name for table in new}
    deferred = [replace(c, is_online=False) for c in alterations if c.target in new_names]
    removed = {name: state for name, state in before.items() if name not in contract.tables}
    changes = (
        *(change for change in alterations if change.target not in new_names),
        *ddl.create_tables(new, before, grants),
        *deferred,
        *table_changes.drop_tables(removed),
    )
    issues = (_issue(contract, change) for change in changes)
    return Plan(changes, tuple(sorted(issue for issue in issues if issue)))


def write(
    planned: Plan, name: str | None = None, folder: Path = revisions.MIGRATIONS
) -> Path | None:
    """Write the revision that follows the newest in `folder`, and return its file.

    Returns None if there is nothing to change. Raises `ContractError` with the plan's
    issues, and `RevisionError`.
    """
    if planned.issues:
        raise ContractError(planned.issues)
    if not planned.changes:
        return None
    newest = revisions.read(folder).newest(SERVICE_LINE)
    name = name or "_and_".join(dict.fromkeys(change.table for change in planned.changes))
    name = name[:MAX_NAME_LENGTH].strip("_")
    id = f"{newest.number + 1:04d}_{name}"
    rendered = revision.render(id, newest.id, planned.changes)
    file = folder / "versions" / rendered.name
    file.write_text(rendered.text)
    return file


def _issue(contract: Contract, change: Change) -> Issue | None:
    """Return an issue if the change could lose data and the contract does not acknowledge it."""
    if change.loss is None:
        return None
    path = _node_path(contract, change)
    if change.upgrade and _is_acknowledged(contract, path, change):
        return None
    reason = change.loss
    if change.upgrade:
        location = _acknowledgement_location(contract, path, change)
        reason += f". If this is intended, add x-acknowledge {location}"
    return contract.issue(path, reason)


def _node_path(contract: Contract, change: Change) -> NodePath:
    """Return the path of the property, else of the table's schema, else of the root."""
    if change.table not in contract.tables:
        return ()
    schema: NodePath = ("components", "schemas", contract.tables[change.table].schema)
    properties = mapping_at(node_at(contract.document, schema), "properties")
    return (*schema, "properties", change.column) if change.column in properties else schema


def _is_acknowledged(contract: Contract, path: NodePath, change: Change) -> bool:
    """Return whether the property has an acknowledgement, or the schema or root has one by name.

    The latter must name the column or table, because it would otherwise cover all later drops too.
    """
    if "properties" in path and "x-acknowledge" in mapping_at(node_at(contract.document, path)):
        return True
    reason = mapping_at(node_at(contract.document, path[:3]), "x-acknowledge").get("reason", "")
    return bool(re.search(rf"\b{change.column or change.table}\b", reason))


def _acknowledgement_location(contract: Contract, path: NodePath, change: Change) -> str:
    """Return where an acknowledgement may be written; not in a property that is a `$ref`."""
    if "properties" in path and "$ref" not in mapping_at(node_at(contract.document, path)):
        return "to this property"
    node = f"to the schema {path[2]}" if path else "at the root"
    return f"{node}, with a reason that names `{change.column or change.table}`"


@contextmanager
def migrated_database(folder: Path = revisions.MIGRATIONS) -> Iterator[str]:
    """Yield the URL of a temporary embedded PostgreSQL at the newest revision of `folder`.

    Raises `EmbeddedError` and `MigrationError`.
    """
    with (
        TemporaryDirectory() as directory,
        embedded.running(Path(directory) / "postgresql", fsync=False) as server,
    ):
        migrate.upgrade(server.url(), folder=folder)
        yield server.url()
