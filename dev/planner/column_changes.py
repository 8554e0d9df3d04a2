"""What has to be done to the columns of a table that exists."""

from collections.abc import Iterator

from dev.planner.catalogue import TableState
from dev.planner.change import Change
from dev.planner.column_types import default_of, definition, quoted
from openapi.tables import Column, Table


def added(table: Table, column: Column) -> Change:
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


def dropped(table: Table, name: str, was: TableState, now: TableState) -> Change:
    kind, filled, default = was.columns[name]
    alike = [n for n in now.columns.keys() - was.columns.keys() if now.columns[n][0] == kind]
    loss = f"the column `{name}` would be dropped with all its values"
    for new in sorted(alike)[:1]:
        loss += (
            f", unless `{new}` is its new name: then write `renamed: {{{new}: {name}}}` in x-table"
        )
    words = [quoted(name), kind]
    words += [f"default {default}"] if default is not None else []
    words += ["not null"] if filled and default is not None else []
    return Change(
        table.name,
        f"{name} dropped",
        (f"alter table {quoted(table.name)} drop column if exists {quoted(name)}",),
        (f"alter table {quoted(table.name)} add column {' '.join(words)}",),
        name,
        loss,
    )


def altered(table: Table, column: Column, was: TableState, now: TableState) -> Iterator[Change]:
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
_BACKFILL = """do {tag}
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
end {tag}"""


def _filled(table: Table, column: Column, alter: str) -> Change:
    """Make a column NOT NULL: by its default, or by proof that no row is without a value."""
    name, default = quoted(table.name), default_of(column)
    what = f"{column.name} made not null"
    if default is not None:
        tag = "$$"
        while tag in default:
            tag = f"$f{tag[1:]}"
        statement = _BACKFILL.format(
            table=name, column=quoted(column.name), default=default, alter=alter, tag=tag
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
