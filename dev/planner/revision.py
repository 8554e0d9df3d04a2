"""Renders an Alembic revision: plain SQL, in the style of the hand-written revisions."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dev.planner.change import Change, ChangeKind

_TEMPLATE = '''"""{title}"""

from alembic import op

revision = "{id}"
down_revision = "{down_revision}"
branch_labels = None
depends_on = None


def upgrade() -> None:
{upgrade}


def downgrade() -> None:
{downgrade}
'''
MAX_LINE_LENGTH = 100
# What SQLAlchemy would read as a bind parameter, and a backslash that it would read as an escape.
_BIND = re.compile(r"(?<![:\w\\]):(?=\w+(?![:\w]))")
_ESCAPE = re.compile(r"\\(?=:\w*(?![:\w]))")
_STRING_LITERAL = re.compile("'[^']*'")


@dataclass(frozen=True)
class Revision:
    """A file of db/migrations/versions."""

    name: str
    text: str


def render(id: str, down_revision: str, changes: Sequence[Change]) -> Revision:
    """Return the revision `id` that follows `down_revision`.

    Everything up to the last online change runs outside a transaction, because it is safe to
    re-run. The rest runs in the transaction that records the revision.
    """
    last_online = max((n for n, change in enumerate(changes) if change.is_online), default=-1)
    online, transactional = changes[: last_online + 1], changes[last_online + 1 :]
    upgrade = []
    if online:
        upgrade.append("    # Each statement is its own transaction and safe to re-run.")
        if any("concurrently" in s for change in online for s in change.upgrade):
            upgrade.append(
                "    # A concurrent statement waits for open transactions, but blocks none."
            )
        upgrade.append("    with op.get_context().autocommit_block():")
        upgrade += [_execute(s, 8) for change in online for s in change.upgrade]
    upgrade += [_execute(s, 4) for change in transactional for s in change.upgrade]
    downgrade = [_execute(s, 4) for change in reversed(changes) for s in change.downgrade]
    text = _TEMPLATE.format(
        title=_title(changes),
        id=id,
        down_revision=down_revision,
        upgrade="\n".join(upgrade),
        downgrade="\n".join(downgrade) or "    pass",
    )
    return Revision(f"{id}.py", text)


def _title(changes: Iterable[Change]) -> str:
    """Return the docstring of a revision: a sentence per table."""
    descriptions: dict[str, list[str]] = {}
    kinds = set()
    for change in changes:
        kinds.add(change.kind)
        of_table = descriptions.setdefault(change.table, [])
        if change.description not in of_table:
            of_table.append(change.description)
    tables = _enumeration([*descriptions])
    if kinds == {ChangeKind.CREATE}:
        return f"Create {tables}."
    lines = [f"{table.capitalize()}: {', '.join(d)}." for table, d in descriptions.items()]
    if len(lines) == 1 and len(lines[0]) <= MAX_LINE_LENGTH - len('""""""'):
        return lines[0]
    return "\n".join([f"Change {tables}.", "", *map(_wrap, lines), ""])


def _enumeration(names: Sequence[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def _wrap(sentence: str) -> str:
    """Return the sentence in lines of at most `MAX_LINE_LENGTH`, indented after the first."""
    lines = [""]
    for word in sentence.split(" "):
        if lines[-1] and len(lines[-1]) + 1 + len(word) > MAX_LINE_LENGTH:
            lines.append(f"    {word}")
        else:
            lines[-1] += f"{' ' * bool(lines[-1])}{word}"
    return "\n".join(lines)


def _execute(statement: str, indent: int) -> str:
    """Return the call of `op.execute`, as a formatter would write it."""
    padding, statement = " " * indent, _BIND.sub(r"\\:", _ESCAPE.sub(r"\\\\", statement))
    prefix = "r" if "\\" in statement else ""
    line = f'{padding}op.execute({prefix}"{statement}")'
    if "\n" not in statement and '"' not in statement and len(line) <= MAX_LINE_LENGTH:
        return line
    # Triple quotes would end the Python literal. A line break in an SQL literal would be indented.
    literals = _STRING_LITERAL.findall(statement)
    if '"""' in statement or any(re.search(r"[\n\r]", literal) for literal in literals):
        return f"{padding}op.execute({statement!r})"
    body = "\n".join(f"{padding}    {line}".rstrip() for line in statement.split("\n"))
    return f'{padding}op.execute({prefix}"""\n{body}\n{padding}""")'
