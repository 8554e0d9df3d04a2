"""What has to be done to a table that exists, and which of it could lose something.

Every statement on such a table may be run again, since those that are online are transactions of
their own: after a lock timeout the revision starts from its beginning.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from db.expected_tables import PRIVILEGES
from dev.planner import column_changes, ddl, key_changes
from dev.planner.catalogue import TableState
from dev.planner.change import CREATED, Change
from dev.planner.column_types import quoted
from openapi.tables import Table


def new_tables(
    tables: Iterable[Table], known: Iterable[str], grants: Mapping[str, Sequence[str]]
) -> Iterator[Change]:
    """Yield what makes the tables, those that others refer to first."""
    for name, statements, undone in ddl.create(tables, known, grants):
        yield Change(name, CREATED, tuple(statements), (undone,))


def dropped_tables(tables: Mapping[str, TableState]) -> Iterator[Change]:
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
        if not waiting.keys() - pointed:
            yield from (_in_a_circle(name) for name in waiting)
            return
        for name in sorted(waiting.keys() - pointed):
            yield Change(
                name,
                "dropped",
                (f"drop table {quoted(name)}",),
                tuple(_made_again(name, waiting.pop(name))),
                loss=f"the table `{name}` is neither the contract's nor one of dev/planner/platform_tables.py: it"
                " would be dropped with all its rows",
            )


def _in_a_circle(name: str) -> Change:
    reason = "is to be dropped and stands in a circle of references: take one of them away first"
    return Change(name, "dropped", (), (), loss=f"the table `{name}` {reason}")


def _made_again(name: str, found: TableState) -> Iterator[str]:
    """Yield what makes a table as it was; its rows are gone."""
    lines = []
    for column, (kind, filled, default) in found.columns.items():
        words = [quoted(column), kind, *["not null"] * filled]
        lines.append(" ".join(words + ([f"default {default}"] if default is not None else [])))
    lines += [f"constraint {n} {definition}" for n, definition in found.constraints.items()]
    body = ",\n    ".join(lines)
    yield f"create table {quoted(name)} (\n    {body}\n)"
    yield from (key_changes.index(name, index, found) for index in found.indexes)
    yield from ddl.secure(name)
    if found.grants:
        yield ddl.grant(name, [p for p in PRIVILEGES if p in found.grants])


def of_table(
    table: Table, was: TableState, now: TableState, renamed: Mapping[str, str]
) -> Iterator[Change]:
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
            yield key_changes.dropped(table, name, was)
    for name in sorted(was.indexes.keys() - now.indexes.keys()):
        yield key_changes.index_dropped(table, name, was)
    for name in sorted(was.columns.keys() - now.columns.keys()):
        yield column_changes.dropped(table, name, was, now)
    for column in table.columns:
        if column.name not in was.columns:
            yield column_changes.added(table, column)
        else:
            yield from column_changes.altered(table, column, was, now)
    yield from key_changes.constraints(table, was, now, again)
    for name in now.indexes:
        if was.indexes.get(name) != now.indexes[name]:
            yield key_changes.index_added(table, name)
    yield from _grants(table, was, now)


def _renamed(
    table: Table, was: TableState, now: TableState, renamed: Mapping[str, str]
) -> tuple[Change, TableState]:
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


def _grants(table: Table, was: TableState, now: TableState) -> Iterator[Change]:
    more = [p for p in PRIVILEGES if p in now.grants - was.grants]
    less = [p for p in PRIVILEGES if p in was.grants - now.grants]
    if more:
        grant, revoke = ddl.grant(table.name, more), ddl.revoke(table.name, more)
        yield Change(table.name, f"{', '.join(more)} granted", (grant,), (revoke,))
    if less:
        grant, revoke = ddl.grant(table.name, less), ddl.revoke(table.name, less)
        yield Change(table.name, f"{', '.join(less)} revoked", (revoke,), (grant,))
