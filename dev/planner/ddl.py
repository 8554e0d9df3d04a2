"""SQL that creates a table of the contract, its isolation and its grants."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set

from db import roles
from dev.planner.change import Change, ChangeKind
from dev.planner.column_types import checks, definition, quoted
from openapi.tables import Column, Table, index_name, reference_name, unique_name

_TENANT = "(org_id = (select nullif(current_setting('app.org_id', true), '')::uuid))"


def in_dependency_order(tables: Mapping[str, Table]) -> list[Table]:
    """Return the tables, each after those that it references; a cycle starts anywhere."""
    remaining, ordered = dict(tables), list[Table]()
    while remaining:
        ready = [t for t in remaining.values() if not _referenced(t) & remaining.keys() - {t.name}]
        for table in ready or [next(iter(remaining.values()))]:
            ordered.append(remaining.pop(table.name))
    return ordered


def _referenced(table: Table) -> set[str]:
    return {reference.table for reference in table.references}


def create_tables(
    tables: Iterable[Table], existing: Iterable[str], grants: Mapping[str, Sequence[str]]
) -> Iterator[Change]:
    """Yield the changes that create the tables, then the foreign keys that complete cycles."""
    created, deferred = set(existing), list[Change]()
    for table in tables:
        created.add(table.name)
        name, privileges = quoted(table.name), grants[table.name]
        yield Change(
            table.name,
            "created",
            (
                _create_table(table, created),
                *_create_indexes(table),
                *isolation(table.name),
                *([grant(table.name, privileges)] if privileges else []),
            ),
            (f"drop table {name}",),
            kind=ChangeKind.CREATE,
        )
        deferred += [
            Change(
                table.name,
                "created",
                (f"alter table {name}\n    add constraint {key} {clause}",),
                (f"alter table {name} drop constraint {key}",),
                kind=ChangeKind.CREATE,
            )
            for key, clause in _foreign_keys(table, lambda target: target not in created).items()
        ]
    yield from deferred


def _create_table(table: Table, existing: Set[str]) -> str:
    """Return the statement, with the foreign keys to `existing` tables."""
    lines = ["org_id uuid not null references organizations on delete cascade", "id uuid not null"]
    for column in table.columns:
        if column.name not in ("org_id", "id"):
            column_checks = check_constraints(table, column).items()
            lines.append(
                "\n    ".join(
                    [
                        definition(column),
                        *(f"constraint {n} {clause}" for n, clause in column_checks),
                    ]
                )
            )
    lines.append("primary key (org_id, id)")
    keys = _unique_keys(table) | _foreign_keys(table, lambda target: target in existing)
    lines += [f"constraint {name} {clause}" for name, clause in keys.items()]
    body = ",\n".join(lines).replace("\n", "\n    ")
    return f"create table {quoted(table.name)} (\n    {body}\n)"


def constraints(table: Table) -> dict[str, str]:
    """Return {name: clause}, without the primary key and the reference to organizations."""
    clauses: dict[str, str] = {}
    for column in table.columns:
        clauses |= check_constraints(table, column)
    return clauses | _unique_keys(table) | _foreign_keys(table, lambda _: True)


def check_constraints(table: Table, column: Column) -> dict[str, str]:
    """Return {name: clause} of the checks of a column."""
    return {
        f"{table.name}_{column.name}_{suffix}": f"check ({expression})"
        for suffix, expression in checks(column).items()
    }


def _unique_keys(table: Table) -> dict[str, str]:
    return {
        unique_name(table.name, key): f"unique ({_column_list('org_id', *key)})"
        for key in table.unique
    }


def _foreign_keys(table: Table, includes: Callable[[str], bool]) -> dict[str, str]:
    """Return {name: clause} of the foreign keys to the tables that `includes` accepts.

    `on_delete: restrict` becomes NO ACTION. Deleting an organization deletes its rows in any order,
    and NO ACTION is checked at the end of the statement.
    """
    return {
        reference_name(table.name, reference.column): (
            f"foreign key ({_column_list('org_id', reference.column)})"
            f"\n    references {quoted(reference.table)} (org_id, id)"
            f"{' on delete cascade' if reference.on_delete == 'cascade' else ''}"
        )
        for reference in table.references
        if includes(reference.table)
    }


def indexes(table: Table) -> dict[str, str]:
    """Return {name: columns}; each reference gets one, for lists and for deletes of its target."""
    keys = dict.fromkeys([*table.indexes, *((r.column,) for r in table.references)])
    return {index_name(table.name, key): _column_list("org_id", *key, "id") for key in keys}


def _create_indexes(table: Table) -> list[str]:
    return [
        f"create index {name} on {quoted(table.name)} ({columns})"
        for name, columns in indexes(table).items()
    ]


def isolation(table: str) -> list[str]:
    """Return the statements that confine every row to its tenant."""
    name = quoted(table)
    return [
        f"alter table {name} enable row level security",
        f"alter table {name} force row level security",
        f"create policy tenant_isolation on {name}"
        f"\n    using      {_TENANT}"
        f"\n    with check {_TENANT}",
    ]


def grant(table: str, privileges: Iterable[str]) -> str:
    """Return the statement that grants the privileges to the serving role."""
    return f"grant {', '.join(privileges)} on {quoted(table)} to {roles.APP}"


def revoke(table: str, privileges: Iterable[str]) -> str:
    """Return the statement that revokes the privileges from the serving role."""
    return f"revoke {', '.join(privileges)} on {quoted(table)} from {roles.APP}"


def _column_list(*columns: str) -> str:
    return ", ".join(map(quoted, columns))
