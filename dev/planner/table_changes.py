"""The changes to existing tables, and which of them could lose data.

Every upgrade statement is safe to re-run: online statements are their own transactions, and after
a lock timeout the revision starts from its beginning.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from db.expected_tables import PRIVILEGES
from dev.planner import column_changes, ddl, key_changes
from dev.planner.catalogue import TableState
from dev.planner.change import Change, ChangeKind
from dev.planner.column_types import quoted
from openapi.tables import Table


def drop_tables(tables: Mapping[str, TableState]) -> Iterator[Change]:
    """Yield the changes that drop the tables, each before those that it references."""
    remaining = dict(tables)
    while remaining:
        referenced = {
            name
            for name in remaining
            for other, state in remaining.items()
            if other != name
            and any(f" REFERENCES {quoted(name)}(" in d for d in state.constraints.values())
        }
        if not remaining.keys() - referenced:
            yield from map(_circular_drop, remaining)
            return
        for name in sorted(remaining.keys() - referenced):
            yield Change(
                name,
                "dropped",
                (f"drop table {quoted(name)}",),
                tuple(_recreate(name, remaining.pop(name))),
                kind=ChangeKind.DROP,
                loss=f"the table `{name}` is in neither the contract nor"
                " dev/planner/platform_tables.py: it would be dropped with all its rows",
            )


def _circular_drop(name: str) -> Change:
    loss = (
        f"the table `{name}` would be dropped, but it is part of a circular foreign-key chain:"
        " remove one of the references first"
    )
    return Change(name, "dropped", (), (), kind=ChangeKind.DROP, loss=loss)


def _recreate(name: str, state: TableState) -> Iterator[str]:
    """Yield the statements that recreate a dropped table, without its rows."""
    lines = []
    for column, (type_, is_not_null, default) in state.columns.items():
        words = [quoted(column), type_, *["not null"] * is_not_null]
        lines.append(" ".join(words + ([f"default {default}"] if default is not None else [])))
    lines += [f"constraint {n} {definition}" for n, definition in state.constraints.items()]
    body = ",\n    ".join(lines)
    yield f"create table {quoted(name)} (\n    {body}\n)"
    for index, definition in state.indexes.items():
        if definition is not None:
            yield key_changes.create_index(name, index, definition)
    yield from ddl.isolation(name)
    if state.grants:
        yield ddl.grant(name, [p for p in PRIVILEGES if p in state.grants])


def alter_table(
    table: Table, before: TableState, after: TableState, renamed: Mapping[str, str]
) -> Iterator[Change]:
    """Yield the changes in order.

    `renamed` is {old: new}; `before` must have the new names of those columns already.
    """
    if renamed:
        change, before = _rename_columns(table, before, after, renamed)
        yield change
    has_retyped_column = any(
        before.columns[name].type != after.columns[name].type
        for name in before.columns.keys() & after.columns.keys()
    )
    # A check of the old type must not stop the change to the new one.
    recreated = {
        name
        for name, definition in before.constraints.items()
        if has_retyped_column
        and definition != after.constraints.get(name)
        and definition.startswith("CHECK")
    }
    for name in before.constraints:
        if name not in after.constraints or name in recreated:
            yield key_changes.drop_constraint(table, name, before)
    for name in sorted(before.indexes.keys() - after.indexes.keys()):
        yield key_changes.drop_index(table, name, before)
    for name in sorted(before.columns.keys() - after.columns.keys()):
        yield column_changes.drop_column(table, name, before, after)
    for column in table.columns:
        if column.name not in before.columns:
            yield column_changes.add_column(table, column)
        else:
            yield from column_changes.alter_column(table, column, before, after)
    yield from key_changes.alter_constraints(table, before, after, recreated)
    for name in after.indexes:
        if before.indexes.get(name) != after.indexes[name]:
            yield key_changes.add_index(table, name)
    yield from _alter_grants(table, before, after)


def _rename_columns(
    table: Table, before: TableState, after: TableState, renamed: Mapping[str, str]
) -> tuple[Change, TableState]:
    """Return the change that renames columns, and the state of the table after it.

    Constraints and indexes are renamed with the columns that their names are derived from.
    """
    name = quoted(table.name)
    constraints = _renamed_definitions(before.constraints, after.constraints)
    indexes = _renamed_definitions(before.indexes, after.indexes)
    renames = [
        *(("table {0} rename column {1} to {2}", *map(quoted, pair)) for pair in renamed.items()),
        *(("table {0} rename constraint {1} to {2}", *pair) for pair in constraints.items()),
        *(("index {1} rename to {2}", *pair) for pair in indexes.items()),
    ]
    upgrade = [f"alter {action.format(name, old, new)}" for action, old, new in renames]
    downgrade = [f"alter {action.format(name, new, old)}" for action, old, new in renames]
    body = ";\n        ".join(upgrade)
    guarded = f"""do $$ begin
    if exists (select from pg_attribute where attrelid = '{name}'::regclass
            and attname = '{next(iter(renamed))}' and not attisdropped) then
        {body};
    end if;
end $$"""
    description = " and ".join(f"{old} renamed to {new}" for old, new in renamed.items())
    state = replace(
        before,
        constraints={constraints.get(n, n): d for n, d in before.constraints.items()},
        indexes={indexes.get(n, n): d for n, d in before.indexes.items()},
    )
    return Change(table.name, description, (guarded,), tuple(reversed(downgrade))), state


def _renamed_definitions(
    before: Mapping[str, str | None], after: Mapping[str, str | None]
) -> dict[str, str]:
    """Return {old: new} for the definitions that only have another name afterwards."""
    renames: dict[str, str] = {}
    for old in sorted(before.keys() - after.keys()):
        added = after.keys() - before.keys() - set(renames.values())
        if matches := [new for new in added if after[new] == before[old]]:
            renames[old] = min(matches)
    return renames


def _alter_grants(table: Table, before: TableState, after: TableState) -> Iterator[Change]:
    granted = [p for p in PRIVILEGES if p in after.grants - before.grants]
    revoked = [p for p in PRIVILEGES if p in before.grants - after.grants]
    if granted:
        grant, revoke = ddl.grant(table.name, granted), ddl.revoke(table.name, granted)
        yield Change(table.name, f"{', '.join(granted)} granted", (grant,), (revoke,))
    if revoked:
        grant, revoke = ddl.grant(table.name, revoked), ddl.revoke(table.name, revoked)
        yield Change(table.name, f"{', '.join(revoked)} revoked", (revoke,), (grant,))
