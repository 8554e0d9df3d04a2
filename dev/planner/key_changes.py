"""The changes to the constraints and indexes of an existing table."""

import re
from collections.abc import Iterator, Set
from dataclasses import replace
from decimal import Decimal

from dev.planner import ddl
from dev.planner.catalogue import TableState
from dev.planner.change import Change
from dev.planner.column_types import quoted
from openapi.tables import Table, reference_name


def alter_constraints(
    table: Table, before: TableState, after: TableState, recreated: Set[str]
) -> Iterator[Change]:
    """Yield the changes that add or replace constraints; `recreated` ones are dropped before."""
    clauses = ddl.constraints(table)
    columns_by_check = {
        name: column.name
        for column in table.columns
        for name in ddl.check_constraints(table, column)
    }
    targets = {reference_name(table.name, r.column): r.table for r in table.references}
    for name, new in after.constraints.items():
        old = before.constraints.get(name)
        if old == new:
            continue
        if name not in clauses:
            yield Change(
                table.name,
                f"{name} changed",
                (),
                (),
                loss=f"the constraint {name} is `{old}`, but the contract needs `{new}`: write this"
                " revision by hand",
            )
        elif new.startswith("UNIQUE"):
            yield _add_unique_key(table, name, clauses[name], old)
        else:
            replaced = None if name in recreated else old
            is_narrowed_check = (
                name in columns_by_check and replaced is not None and not is_wider(replaced, new)
            )
            yield replace(
                _add_constraint(table, name, clauses[name], replaced),
                column=columns_by_check.get(name),
                loss="would be narrower, and existing rows may not fit"
                if is_narrowed_check
                else None,
                target=targets.get(name),
            )


def _add_constraint(table: Table, name: str, clause: str, old: str | None) -> Change:
    """Return the change that adds a constraint, or replaces the one that was defined as `old`.

    NOT VALID checks new writes only, and does not scan the table under its exclusive lock.
    VALIDATE then scans it without blocking writes.
    """
    alter = f"alter table {quoted(table.name)}"
    restore = f"\n    drop constraint {name},\n    add constraint {name} {old}"
    return Change(
        table.name,
        f"{name} changed" if old else f"{name} added",
        (
            f"{alter}\n    drop constraint if exists {name},"
            f"\n    add constraint {name} {clause} not valid",
            f"{alter} validate constraint {name}",
        ),
        (f"{alter}{restore}" if old else f"{alter} drop constraint {name}",),
        is_online=True,
    )


def drop_constraint(table: Table, name: str, before: TableState) -> Change:
    """Return the change that drops a constraint."""
    alter = f"alter table {quoted(table.name)}"
    return Change(
        table.name,
        f"{name} dropped",
        (f"{alter} drop constraint if exists {name}",),
        (f"{alter}\n    add constraint {name} {before.constraints[name]}",),
    )


def _add_unique_key(table: Table, name: str, clause: str, old: str | None) -> Change:
    alter, index = f"alter table {quoted(table.name)}", f"{name.removesuffix('_key')}_new"
    restore = f"\n    drop constraint {name},\n    add constraint {name} {old}"
    return Change(
        table.name,
        f"{name} added",
        (
            *_with_long_lock_timeout(
                f"drop index concurrently if exists {index}",
                f"create unique index concurrently {index}"
                f"\n    on {quoted(table.name)} {clause.removeprefix('unique ')}",
            ),
            f"{alter}\n    drop constraint if exists {name},"
            f"\n    add constraint {name} unique using index {index}",
        ),
        (f"{alter}{restore}" if old else f"{alter} drop constraint {name}",),
        is_online=True,
    )


def add_index(table: Table, name: str) -> Change:
    """Return the change that builds an index concurrently."""
    columns = ddl.indexes(table)[name]
    return Change(
        table.name,
        f"{name} added",
        _with_long_lock_timeout(
            f"drop index concurrently if exists {name}",
            f"create index concurrently {name} on {quoted(table.name)} ({columns})",
        ),
        (f"drop index {name}",),
        is_online=True,
    )


def drop_index(table: Table, name: str, before: TableState) -> Change:
    """Return the change that drops an index concurrently; an invalid one is not restored."""
    index = before.indexes[name]
    return Change(
        table.name,
        f"{name} dropped",
        _with_long_lock_timeout(f"drop index concurrently if exists {name}"),
        (create_index(table.name, name, index),) if index is not None else (),
        is_online=True,
    )


def _with_long_lock_timeout(*statements: str) -> tuple[str, ...]:
    """A concurrent build waits for every open transaction, but blocks no one while it waits."""
    return "set lock_timeout = '5min'", *statements, "reset lock_timeout"


def create_index(table: str, name: str, definition: str) -> str:
    """Return the statement that creates an index as `TableState` defines it."""
    unique = "unique " if definition.startswith("UNIQUE ") else ""
    method = definition.removeprefix("UNIQUE ")
    return f"create {unique}index {name} on {quoted(table)} using {method}"


def is_wider(old: str, new: str) -> bool:
    """Return whether every value that passes the check `old` certainly passes `new`.

    Both as the server prints them. False if that cannot be decided.
    """
    if "~" in old + new:
        return False
    old_values, new_values = _enumerated(old), _enumerated(new)
    if old_values is not None or new_values is not None:
        return old_values is not None and new_values is not None and old_values <= new_values
    if ("char_length" in old) != ("char_length" in new):
        return False
    (old_lower, old_upper), (new_lower, new_upper) = _bounds(old), _bounds(new)
    return new_lower <= old_lower and old_upper <= new_upper


_COMPARISON = re.compile(r"([<>]=?) \(*'?(-?[0-9.]+(?:e[+-]?[0-9]+)?)")


def _enumerated(check: str) -> set[str] | None:
    """Return the literals that the check lists, or None if it lists none."""
    if array := re.search(r"= ANY \(ARRAY\[(.*)\]\)", check, re.DOTALL):
        return set(re.findall(r"'(?:[^']|'')*'|-?[0-9.]+", array[1]))
    if single := re.search(r" = \(?('(?:[^']|'')*'|-?[0-9.]+)", check, re.DOTALL):
        return {single[1]}
    return None


def _bounds(check: str) -> tuple[tuple[Decimal, bool], tuple[Decimal, bool]]:
    """Return the lower and the upper bound as pairs that compare by what they allow.

    The second item orders `> n` after `>= n` as a lower bound, and `<= n` after `< n` as an upper.
    """
    lower, upper = (Decimal("-inf"), False), (Decimal("inf"), False)
    for operator, number in _COMPARISON.findall(check):
        if operator.startswith(">"):
            lower = (Decimal(number), operator == ">")
        else:
            upper = (Decimal(number), operator == "<=")
    return lower, upper
