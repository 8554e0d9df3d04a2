"""What has to be done to a table that exists, and which of it could lose something.

Every statement on such a table may be run again, since those that are online are transactions of
their own: after a lock timeout the revision starts from its beginning.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from db.columns import default_of, definition, quoted
from db.demands import PRIVILEGES
from db.plans import ddl
from db.plans.catalogue import Found
from openapi.tables import Column, Table, reference_name

MADE = "made"


@dataclass(frozen=True)
class Change:
    """Statements there and back.

    `loss` says why `column`, or the table, needs an acknowledgement; without statements no
    acknowledgement helps. `online`: not in a transaction. `target`: the table referred to.
    """

    table: str
    what: str
    upgrade: tuple[str, ...]
    downgrade: tuple[str, ...]
    column: str | None = None
    loss: str | None = None
    online: bool = False
    target: str | None = None


def new_tables(
    tables: Iterable[Table], known: Iterable[str], grants: Mapping[str, Sequence[str]]
) -> Iterator[Change]:
    """Yield what makes the tables, those that others refer to first."""
    for name, statements, undone in ddl.create(tables, known, grants):
        yield Change(name, MADE, tuple(statements), (undone,))


def dropped_tables(tables: Mapping[str, Found]) -> Iterator[Change]:
    """Yield what drops the tables, those that refer to others first."""
    waiting = dict(tables)
    while waiting:
        pointed = {
            name
            for name in waiting
            for other, found in waiting.items()
            if other != name
            and any(f" REFERENCES {quoted(name)}(" in d for d in found.constraints.values())
        }
        for name in sorted(waiting.keys() - pointed or waiting):
            found = waiting.pop(name)
            yield Change(
                name,
                "dropped",
                (f"drop table {quoted(name)}",),
                tuple(_made_again(name, found)),
                loss=f"the table `{name}` is neither the contract's nor one of db/tables.py: it"
                " would be dropped with all its rows",
            )


def _made_again(name: str, found: Found) -> Iterator[str]:
    """Yield what makes a table as it was; its rows are gone."""
    lines = []
    for column, (kind, filled, default) in found.columns.items():
        words = [quoted(column), kind, *["not null"] * filled]
        lines.append(" ".join(words + ([f"default {default}"] if default is not None else [])))
    lines += [f"constraint {n} {definition}" for n, definition in found.constraints.items()]
    body = ",\n    ".join(lines)
    yield f"create table {quoted(name)} (\n    {body}\n)"
    yield from (_index(name, index, found) for index in found.indexes)
    yield from ddl.secure(name)
    if found.grants:
        yield ddl.grant(name, [p for p in PRIVILEGES if p in found.grants])


def of_table(table: Table, was: Found, now: Found, renamed: Mapping[str, str]) -> Iterator[Change]:
    """Yield the changes in order; the columns of `renamed` {old: new} have new names in `was`."""
    if renamed:
        change, was = _renamed(table, was, now, renamed)
        yield change
    retyped = {
        name
        for name in was.columns.keys() & now.columns.keys()
        if was.columns[name][0] != now.columns[name][0]
    }
    again = {
        name
        for name, definition in was.constraints.items()
        if retyped and definition != now.constraints.get(name) and definition.startswith("CHECK")
    }
    for name in was.constraints:
        if name not in now.constraints or name in again:
            yield _constraint_dropped(table, name, was)
    for name in sorted(was.indexes.keys() - now.indexes.keys()):
        yield _index_dropped(table, name, was)
    for name in sorted(was.columns.keys() - now.columns.keys()):
        yield _column_dropped(table, name, was)
    for column in table.columns:
        if column.name not in was.columns:
            yield _column_added(table, column)
        else:
            yield from _column_altered(table, column, was, now)
    yield from _constraints(table, was, now, again)
    for name in now.indexes:
        if was.indexes.get(name) != now.indexes[name]:
            yield _index_added(table, name)
    yield from _grants(table, was, now)


def _renamed(
    table: Table, was: Found, now: Found, renamed: Mapping[str, str]
) -> tuple[Change, Found]:
    """Rename columns, and what says the same under a name that is derived from theirs."""
    name = quoted(table.name)
    there, back = [], []
    for old, new in renamed.items():
        there.append(f"alter table {name} rename column {quoted(old)} to {quoted(new)}")
        back.append(f"alter table {name} rename column {quoted(new)} to {quoted(old)}")
    constraints, indexes = dict(was.constraints), dict(was.indexes)
    for kind, old_ones, new_ones in (
        ("constraint", constraints, now.constraints),
        ("index", indexes, now.indexes),
    ):
        for old in sorted(old_ones.keys() - new_ones.keys()):
            same = [n for n in new_ones.keys() - old_ones.keys() if new_ones[n] == old_ones[old]]
            if same:
                new = min(same)
                old_ones[new] = old_ones.pop(old)
                what = f"alter table {name} rename constraint {{}} to {{}}"
                what = what if kind == "constraint" else "alter index {} rename to {}"
                there.append(what.format(old, new))
                back.append(what.format(new, old))
    first = quoted(next(iter(renamed)))
    guarded = f"""do $$ begin
    if exists (select from pg_attribute where attrelid = '{name}'::regclass
            and attname = '{first.strip('"')}' and not attisdropped) then
        {_lines(there, 8)}
    end if;
end $$"""
    what = " and ".join(f"{old} renamed to {new}" for old, new in renamed.items())
    found = replace(was, constraints=constraints, indexes=indexes)
    return Change(table.name, what, (guarded,), tuple(reversed(back))), found


def _lines(statements: list[str], indent: int) -> str:
    return f";\n{' ' * indent}".join(statements) + ";"


# Columns


def _column_added(table: Table, column: Column) -> Change:
    missing = column.required and default_of(column) is None
    return Change(
        table.name,
        f"{column.name} added",
        (f"alter table {quoted(table.name)} add column if not exists {definition(column)}",),
        (f"alter table {quoted(table.name)} drop column {quoted(column.name)}",),
        column.name,
        "is required and has no default: rows that are there would have no value. Give it a"
        " default, or make it nullable"
        if missing
        else None,
    )


def _column_dropped(table: Table, name: str, was: Found) -> Change:
    kind, filled, default = was.columns[name]
    words = [quoted(name), kind]
    words += [f"default {default}"] if default is not None else []
    words += ["not null"] if filled and default is not None else []
    return Change(
        table.name,
        f"{name} dropped",
        (f"alter table {quoted(table.name)} drop column if exists {quoted(name)}",),
        (f"alter table {quoted(table.name)} add column {' '.join(words)}",),
        name,
        f"the column `{name}` would be dropped with all its values",
    )


def _column_altered(table: Table, column: Column, was: Found, now: Found) -> Iterator[Change]:
    name = column.name
    (old_type, old_filled, old_default) = was.columns[name]
    (new_type, new_filled, new_default) = now.columns[name]
    alter = f"alter table {quoted(table.name)} alter column {quoted(name)}"
    if old_type != new_type:
        yield Change(
            table.name,
            f"{name} made {new_type}",
            (_retype(table, name, new_type, old_default, default_of(column)),),
            (_retype(table, name, old_type, new_default, old_default),),
            name,
            f"would change from {old_type} to {new_type}: every row is written anew, and values"
            " may not fit",
        )
    elif old_default != new_default:
        yield Change(
            table.name,
            f"default of {name} changed",
            (f"{alter} {_default(default_of(column))}",),
            (f"{alter} {_default(old_default)}",),
        )
    if old_filled and not new_filled:
        yield Change(
            table.name,
            f"{name} made nullable",
            (f"{alter} drop not null",),
            (f"{alter} set not null",),
        )
    elif new_filled and not old_filled:
        yield _filled(table, column, alter)


def _retype(
    table: Table, name: str, kind: str, old_default: str | None, new_default: str | None
) -> str:
    alter = f"alter column {quoted(name)}"
    parts = [f"{alter} drop default"] if old_default is not None else []
    parts.append(f"{alter} type {kind} using {quoted(name)}::{kind}")
    parts += [f"{alter} set default {new_default}"] if new_default is not None else []
    return f"alter table {quoted(table.name)}\n    " + ",\n    ".join(parts)


def _default(default: str | None) -> str:
    return "drop default" if default is None else f"set default {default}"


# The owner's UPDATE under FORCE would touch no row, and say nothing.
_BACKFILL = """do $$
declare
    empty bigint;
    filled bigint;
begin
    alter table {table} no force row level security;
    select count(*) into empty from {table} where {column} is null;
    update {table} set {column} = {default} where {column} is null;
    get diagnostics filled = row_count;
    if filled <> empty then
        raise exception '% of % rows were filled', filled, empty;
    end if;
    alter table {table} force row level security;
    {alter} set not null;
end $$"""


def _filled(table: Table, column: Column, alter: str) -> Change:
    """Make a column NOT NULL: by its default, or by proof that no row is without a value."""
    name, default = quoted(table.name), default_of(column)
    what = f"{column.name} made not null"
    if default is not None:
        statement = _BACKFILL.format(
            table=name, column=quoted(column.name), default=default, alter=alter
        )
        return Change(table.name, what, (statement,), (f"{alter} drop not null",))
    proof = f"{table.name}_not_null"
    return Change(
        table.name,
        what,
        (
            f"alter table {name}\n    drop constraint if exists {proof},"
            f"\n    add constraint {proof} check ({quoted(column.name)} is not null) not valid",
            f"alter table {name} validate constraint {proof}",
            f"{alter} set not null",
            f"alter table {name} drop constraint {proof}",
        ),
        (f"{alter} drop not null",),
        column.name,
        "would be required, and rows may have no value. Give it a default, which they get",
        online=True,
    )


# Constraints and indexes


def _constraints(table: Table, was: Found, now: Found, again: set[str]) -> Iterator[Change]:
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


def _constraint_dropped(table: Table, name: str, was: Found) -> Change:
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
            f"drop index concurrently if exists {built}",
            f"create unique index concurrently {built}"
            f"\n    on {quoted(table.name)} {clause.removeprefix('unique ')}",
            f"{alter}\n    drop constraint if exists {name},"
            f"\n    add constraint {name} unique using index {built}",
        ),
        (f"{alter}{back}" if old else f"{alter} drop constraint {name}",),
        online=True,
    )


def _index_added(table: Table, name: str) -> Change:
    columns = ddl.indexes(table)[name]
    return Change(
        table.name,
        f"{name} added",
        (
            f"drop index concurrently if exists {name}",
            f"create index concurrently {name} on {quoted(table.name)} ({columns})",
        ),
        (f"drop index {name}",),
        online=True,
    )


def _index_dropped(table: Table, name: str, was: Found) -> Change:
    return Change(
        table.name,
        f"{name} dropped",
        (f"drop index concurrently if exists {name}",),
        (_index(table.name, name, was),),
        online=True,
    )


def _index(table: str, name: str, found: Found) -> str:
    definition = found.indexes[name]
    kind = "unique index" if definition.startswith("UNIQUE ") else "index"
    return f"create {kind} {name} on {quoted(table)} using {definition.removeprefix('UNIQUE ')}"


def _grants(table: Table, was: Found, now: Found) -> Iterator[Change]:
    more = [p for p in PRIVILEGES if p in now.grants - was.grants]
    less = [p for p in PRIVILEGES if p in was.grants - now.grants]
    if more:
        grant, revoke = ddl.grant(table.name, more), ddl.revoke(table.name, more)
        yield Change(table.name, f"{', '.join(more)} granted", (grant,), (revoke,))
    if less:
        grant, revoke = ddl.grant(table.name, less), ddl.revoke(table.name, less)
        yield Change(table.name, f"{', '.join(less)} revoked", (revoke,), (grant,))


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
