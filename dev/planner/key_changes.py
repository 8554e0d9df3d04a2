"""What has to be done to the constraints and indexes of a table that exists."""

import re
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal

from dev.planner import ddl
from dev.planner.catalogue import INVALID, TableState
from dev.planner.change import Change
from dev.planner.column_types import quoted
from openapi.tables import Table, reference_name


def constraints(
    table: Table, was: TableState, now: TableState, again: set[str]
) -> Iterator[Change]:
    clauses = ddl.constraints(table)
    of_column = {
        name: column.name for column in table.columns for name in ddl.column_checks(table, column)
    }
    targets = {reference_name(table.name, r.column): r.table for r in table.references}
    for name, printed in now.constraints.items():
        old = was.constraints.get(name)
        if old == printed:
            continue
        if name not in clauses:
            yield Change(
                table.name,
                f"{name} changed",
                (),
                (),
                loss=f"{name} is `{old}` and not `{printed}`: write this revision by hand",
            )
        elif printed.startswith("UNIQUE"):
            yield _unique_added(table, name, clauses[name], old)
        else:
            kept = None if name in again else old
            is_narrow = kept is not None and not is_wider(kept, printed)
            column, is_check = of_column.get(name), name in of_column
            yield replace(
                _constraint_added(table, name, clauses[name], kept),
                column=column,
                loss="would be narrower, and rows may not fit" if is_narrow and is_check else None,
                target=targets.get(name),
            )


def _constraint_added(table: Table, name: str, clause: str, old: str | None) -> Change:
    """NOT VALID holds for what is written from now on, without a look at the rows; VALIDATE looks
    at them without keeping anybody from writing."""
    alter = f"alter table {quoted(table.name)}"
    back = f"\n    drop constraint {name},\n    add constraint {name} {old}"
    return Change(
        table.name,
        f"{name} changed" if old else f"{name} added",
        (
            f"{alter}\n    drop constraint if exists {name},"
            f"\n    add constraint {name} {clause} not valid",
            f"{alter} validate constraint {name}",
        ),
        (f"{alter}{back}" if old else f"{alter} drop constraint {name}",),
        online=True,
    )


def dropped(table: Table, name: str, was: TableState) -> Change:
    alter = f"alter table {quoted(table.name)}"
    return Change(
        table.name,
        f"{name} dropped",
        (f"{alter} drop constraint if exists {name}",),
        (f"{alter}\n    add constraint {name} {was.constraints[name]}",),
    )


def _unique_added(table: Table, name: str, clause: str, old: str | None) -> Change:
    alter, built = f"alter table {quoted(table.name)}", f"{name.removesuffix('_key')}_new"
    back = f"\n    drop constraint {name},\n    add constraint {name} {old}"
    return Change(
        table.name,
        f"{name} added",
        (
            *_patiently(
                f"drop index concurrently if exists {built}",
                f"create unique index concurrently {built}"
                f"\n    on {quoted(table.name)} {clause.removeprefix('unique ')}",
            ),
            f"{alter}\n    drop constraint if exists {name},"
            f"\n    add constraint {name} unique using index {built}",
        ),
        (f"{alter}{back}" if old else f"{alter} drop constraint {name}",),
        online=True,
    )


def index_added(table: Table, name: str) -> Change:
    columns = ddl.indexes(table)[name]
    return Change(
        table.name,
        f"{name} added",
        _patiently(
            f"drop index concurrently if exists {name}",
            f"create index concurrently {name} on {quoted(table.name)} ({columns})",
        ),
        (f"drop index {name}",),
        online=True,
    )


def index_dropped(table: Table, name: str, was: TableState) -> Change:
    return Change(
        table.name,
        f"{name} dropped",
        _patiently(f"drop index concurrently if exists {name}"),
        (index(table.name, name, was),) if was.indexes[name] != INVALID else (),
        online=True,
    )


def _patiently(*statements: str) -> tuple[str, ...]:
    """What is done concurrently waits for every open transaction, and nobody waits for it."""
    return "set lock_timeout = '5min'", *statements, "reset lock_timeout"


def index(table: str, name: str, found: TableState) -> str:
    definition = found.indexes[name]
    kind = "unique index" if definition.startswith("UNIQUE ") else "index"
    return f"create {kind} {name} on {quoted(table)} using {definition.removeprefix('UNIQUE ')}"


# Whether a check lets in all that another does, both as the server prints them


def is_wider(old: str, new: str) -> bool:
    """Whether the check `new` surely holds for every value of which `old` holds."""
    if "~" in old + new:
        return False
    some, every = _values(old), _values(new)
    if some is not None or every is not None:
        return some is not None and every is not None and some <= every
    if ("char_length" in old) != ("char_length" in new):
        return False
    (low, high), (lowest, highest) = _range(old), _range(new)
    return lowest <= low and high <= highest


_NUMBER = re.compile(r"([<>]=?) \(*'?(-?[0-9.]+(?:e[+-]?[0-9]+)?)")


def _values(check: str) -> set[str] | None:
    if listed := re.search(r"= ANY \(ARRAY\[(.*)\]\)", check, re.DOTALL):
        return set(re.findall(r"'(?:[^']|'')*'|-?[0-9.]+", listed[1]))
    if one := re.search(r" = \(?('(?:[^']|'')*'|-?[0-9.]+)", check, re.DOTALL):
        return {one[1]}
    return None


def _range(check: str) -> tuple[tuple[Decimal, bool], tuple[Decimal, bool]]:
    """Return the bounds, each with what makes it greater than the same number as a bound."""
    low, high = (Decimal("-inf"), False), (Decimal("inf"), False)
    for sign, number in _NUMBER.findall(check):
        if sign.startswith(">"):
            low = (Decimal(number), sign == ">")
        else:
            high = (Decimal(number), sign == "<=")
    return low, high
