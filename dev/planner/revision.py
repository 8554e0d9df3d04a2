"""A revision of Alembic as text: plain SQL, in the style of those written by hand."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dev.planner.change import CREATED, Change

_HEAD = '''"""{title}"""

from alembic import op

revision = "{number}"
down_revision = "{before}"
branch_labels = None
depends_on = None


def upgrade() -> None:
{upgrade}


def downgrade() -> None:
{downgrade}
'''
WIDEST = 100
# What SQLAlchemy takes for a parameter, and for a backslash that keeps it from doing so.
_BIND = re.compile(r"(?<![:\w\\]):(?=\w+(?![:\w]))")
_ESCAPE = re.compile(r"\\(?=:\w*(?![:\w]))")
_TEXT = re.compile("'[^']*'")


@dataclass(frozen=True)
class Revision:
    """A file of db/migrations/versions."""

    name: str
    text: str


def render(number: str, before: str, name: str, changes: Sequence[Change]) -> Revision:
    """Return the revision: what is online first, outside of a transaction, since that may be run
    again; then the rest, together with the number of the revision."""
    last = max((n for n, change in enumerate(changes) if change.online), default=-1)
    online, rest = changes[: last + 1], changes[last + 1 :]
    upgrade = []
    if online:
        upgrade.append("    # Each a transaction of its own, and fit to be run again.")
        if any("concurrently" in s for change in online for s in change.upgrade):
            upgrade.append(
                "    # What is concurrent waits for open transactions; nobody waits for it."
            )
        upgrade.append("    with op.get_context().autocommit_block():")
        upgrade += [_execute(s, 8) for change in online for s in change.upgrade]
    upgrade += [_execute(s, 4) for change in rest for s in change.upgrade]
    downgrade = [_execute(s, 4) for change in reversed(changes) for s in change.downgrade]
    text = _HEAD.format(
        title=title(changes),
        number=number,
        before=before,
        upgrade="\n".join(upgrade),
        downgrade="\n".join(downgrade) or "    pass",
    )
    return Revision(f"{number}_{name}.py", text)


def title(changes: Iterable[Change]) -> str:
    """Return what a revision does, as its docstring."""
    done: dict[str, list[str]] = {}
    for change in changes:
        done.setdefault(change.table, []).extend([change.what] if change.what != CREATED else [])
    first, *others = done
    lines = [f"{table.capitalize()}: {', '.join(some)}." for table, some in done.items() if some]
    if not others and lines and len(lines[0]) <= WIDEST - len('""""""'):
        return lines[0]
    head = f"{first.capitalize()}{_and(others)}."
    return "\n".join([head, "", *map(_wrap, lines), ""]) if lines else head


def _and(others: list[str]) -> str:
    return "".join(f", {table}" for table in others[:-1]) + "".join(
        f" and {table}" for table in others[-1:]
    )


def _wrap(line: str) -> str:
    lines, at = [""], 0
    for word in line.split(" "):
        if lines[at] and len(lines[at]) + 1 + len(word) > WIDEST:
            lines.append(f"    {word}")
            at += 1
        else:
            lines[at] += f"{' ' * bool(lines[at])}{word}"
    return "\n".join(lines)


def _execute(statement: str, indent: int) -> str:
    pad, statement = " " * indent, _BIND.sub(r"\\:", _ESCAPE.sub(r"\\\\", statement))
    prefix = "r" if "\\" in statement else ""
    line = f'{pad}op.execute({prefix}"{statement}")'
    if "\n" not in statement and '"' not in statement and len(line) <= WIDEST:
        return line
    # The one would end the text, and go on as Python; the others would be indented, or read as \n.
    if '"""' in statement or any(re.search(r"[\n\r]", text) for text in _TEXT.findall(statement)):
        return f"{pad}op.execute({statement!r})"
    body = "\n".join(f"{pad}    {line}".rstrip() for line in statement.split("\n"))
    return f'{pad}op.execute({prefix}"""\n{body}\n{pad}""")'
