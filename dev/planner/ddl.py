"""The statements that make a table of the contract, its isolation and its grant."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set

from db import roles
from dev.planner.column_types import checks, definition, quoted
from openapi.tables import Column, Table, index_name, reference_name, unique_name

_TENANT = "(org_id = (select nullif(current_setting('app.org_id', true), '')::uuid))"


def tables_in_order(tables: Mapping[str, Table]) -> list[Table]:
    """Return the tables, those that others refer to first."""
    waiting, ordered = dict(tables), list[Table]()
    while waiting:
        free = [t for t in waiting.values() if not _targets(t) & waiting.keys() - {t.name}]
        for table in free or [next(iter(waiting.values()))]:  # a circle is cut anywhere
            ordered.append(waiting.pop(table.name))
    return ordered


def _targets(table: Table) -> set[str]:
    return {reference.table for reference in table.references}


def create(
    tables: Iterable[Table], known: Iterable[str], grants: Mapping[str, Sequence[str]]
) -> Iterator[tuple[str, list[str], str]]:
    """Yield (table, statements, what undoes them) of new tables in order; `known` exist already."""
    known, late = set(known), list[tuple[str, list[str], str]]()
    for table in tables:
        known.add(table.name)
        granted = [grant(table.name, grants[table.name])] if grants[table.name] else []
        made = [create_table(table, known), *create_indexes(table), *secure(table.name), *granted]
        yield table.name, made, f"drop table {quoted(table.name)}"
        alter = f"alter table {quoted(table.name)}"
        late += [
            (
                table.name,
                [f"{alter}\n    add constraint {n} {clause}"],
                f"{alter} drop constraint {n}",
            )
            for n, clause in references(table, lambda target: target not in known).items()
        ]
    yield from late


def create_table(table: Table, known: Set[str]) -> str:
    """Return the statement; the tenant's column comes first, then the id."""
    lines = ["org_id uuid not null references organizations on delete cascade", "id uuid not null"]
    for column in table.columns:
        if column.name not in ("org_id", "id"):
            named = column_checks(table, column).items()
            lines.append(
                "\n    ".join(
                    [definition(column), *(f"constraint {name} {check}" for name, check in named)]
                )
            )
    lines.append("primary key (org_id, id)")
    named = (unique(table) | references(table, lambda target: target in known)).items()
    lines += [f"constraint {name} {clause}" for name, clause in named]
    body = ",\n".join(lines).replace("\n", "\n    ")
    return f"create table {quoted(table.name)} (\n    {body}\n)"


def constraints(table: Table) -> dict[str, str]:
    """Return {name: clause} of every constraint but the primary key and the organization's."""
    found: dict[str, str] = {}
    for column in table.columns:
        found |= column_checks(table, column)
    return found | unique(table) | references(table, lambda target: True)


def column_checks(table: Table, column: Column) -> dict[str, str]:
    return {
        f"{table.name}_{column.name}_{kind}": f"check ({expression})"
        for kind, expression in checks(column).items()
    }


def unique(table: Table) -> dict[str, str]:
    return {
        unique_name(table.name, key): f"unique ({names('org_id', *key)})" for key in table.unique
    }


def references(table: Table, is_meant: Callable[[str], bool]) -> dict[str, str]:
    """Return the references to the tables that are meant.

    Restrict is `no action`: when a whole organization is deleted its rows go in any order, and
    only what is left at the end of the statement counts.
    """
    return {
        reference_name(table.name, reference.column): (
            f"foreign key ({names('org_id', reference.column)})"
            f"\n    references {quoted(reference.table)} (org_id, id)"
            f"{' on delete cascade' if reference.on_delete == 'cascade' else ''}"
        )
        for reference in table.references
        if is_meant(reference.table)
    }


def indexes(table: Table) -> dict[str, str]:
    """Return {name: columns}; a reference has one, for its lists and for deleting its target."""
    every = dict.fromkeys([*table.indexes, *((r.column,) for r in table.references)])
    return {index_name(table.name, key): names("org_id", *key, "id") for key in every}


def create_indexes(table: Table) -> list[str]:
    made = indexes(table).items()
    return [f"create index {name} on {quoted(table.name)} ({columns})" for name, columns in made]


def secure(table: str) -> list[str]:
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
    return f"grant {', '.join(privileges)} on {quoted(table)} to {roles.APP}"


def revoke(table: str, privileges: Iterable[str]) -> str:
    return f"revoke {', '.join(privileges)} on {quoted(table)} from {roles.APP}"


def names(*columns: str) -> str:
    """Return columns as SQL lists them."""
    return ", ".join(map(quoted, columns))
