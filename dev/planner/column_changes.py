"""The changes to the columns of an existing table."""

from collections.abc import Iterator

from dev.planner.catalogue import TableState
from dev.planner.change import Change
from dev.planner.column_types import default_of, definition, quoted
from openapi.tables import Column, Table


def add_column(table: Table, column: Column) -> Change:
    """Return the change that adds a column."""
    has_no_value = column.required and default_of(column) is None
    return Change(
        table.name,
        f"{column.name} added",
        (f"alter table {quoted(table.name)} add column if not exists {definition(column)}",),
        (f"alter table {quoted(table.name)} drop column {quoted(column.name)}",),
        column=column.name,
        loss="is required and has no default: existing rows would have no value. Give it a default,"
        " or make it nullable"
        if has_no_value
        else None,
    )


def drop_column(table: Table, name: str, before: TableState, after: TableState) -> Change:
    """Return the change that drops a column; its loss suggests a rename if one is plausible."""
    state = before.columns[name]
    added = sorted(after.columns.keys() - before.columns.keys())
    loss = f"the column `{name}` would be dropped with all its values"
    for new in [n for n in added if after.columns[n].type == state.type][:1]:
        loss += f". If `{new}` is its new name, write `renamed: {{{new}: {name}}}` in x-table"
    words = [quoted(name), state.type]
    if state.default is not None:
        words.append(f"default {state.default}")
    if state.is_not_null and state.default is not None:
        words.append("not null")
    return Change(
        table.name,
        f"{name} dropped",
        (f"alter table {quoted(table.name)} drop column if exists {quoted(name)}",),
        (f"alter table {quoted(table.name)} add column {' '.join(words)}",),
        column=name,
        loss=loss,
    )


def alter_column(
    table: Table, column: Column, before: TableState, after: TableState
) -> Iterator[Change]:
    """Yield the changes to the type, the default and the nullability of a column."""
    name = column.name
    old, new = before.columns[name], after.columns[name]
    alter = f"alter table {quoted(table.name)} alter column {quoted(name)}"
    if old.type != new.type:
        yield Change(
            table.name,
            f"{name} changed to {new.type}",
            (_change_type(table, name, new.type, old.default, default_of(column)),),
            (_change_type(table, name, old.type, new.default, old.default),),
            column=name,
            loss=f"would change from {old.type} to {new.type}: every row is rewritten, and values"
            " may not fit",
        )
    elif old.default != new.default:
        yield Change(
            table.name,
            f"default of {name} changed",
            (f"{alter} {_default_clause(default_of(column))}",),
            (f"{alter} {_default_clause(old.default)}",),
        )
    if old.is_not_null and not new.is_not_null:
        yield Change(
            table.name,
            f"{name} changed to nullable",
            (f"{alter} drop not null",),
            (f"{alter} set not null",),
        )
    elif new.is_not_null and not old.is_not_null:
        yield _set_not_null(table, column, alter)


def _change_type(
    table: Table, name: str, new_type: str, old_default: str | None, new_default: str | None
) -> str:
    alter = f"alter column {quoted(name)}"
    actions = [f"{alter} drop default"] if old_default is not None else []
    actions.append(f"{alter} type {new_type} using {quoted(name)}::{new_type}")
    actions += [f"{alter} set default {new_default}"] if new_default is not None else []
    return f"alter table {quoted(table.name)}\n    " + ",\n    ".join(actions)


def _default_clause(default: str | None) -> str:
    return "drop default" if default is None else f"set default {default}"


# With FORCE ROW LEVEL SECURITY, the owner's UPDATE would silently match no rows.
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


def _set_not_null(table: Table, column: Column, alter: str) -> Change:
    """Return the change to NOT NULL: existing rows get the default, or must have a value."""
    name, default = quoted(table.name), default_of(column)
    description = f"{column.name} changed to not null"
    if default is not None:
        tag = "$$"
        while tag in default:
            tag = f"$f{tag[1:]}"
        statement = _BACKFILL.format(
            table=name, column=quoted(column.name), default=default, alter=alter, tag=tag
        )
        return Change(table.name, description, (statement,), (f"{alter} drop not null",))
    # A validated check spares SET NOT NULL the scan under its exclusive lock.
    check = f"{table.name}_not_null"
    return Change(
        table.name,
        description,
        (
            f"alter table {name}\n    drop constraint if exists {check},"
            f"\n    add constraint {check} check ({quoted(column.name)} is not null) not valid",
            f"alter table {name} validate constraint {check}",
            f"{alter} set not null",
            f"alter table {name} drop constraint {check}",
        ),
        (f"{alter} drop not null",),
        column=column.name,
        loss="would become required, but existing rows may have no value. Give it a default, which"
        " those rows then get",
        is_online=True,
    )
