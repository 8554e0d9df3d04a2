"""A change: one step from the tables of a database to those of the contract."""

from dataclasses import dataclass
from enum import Enum, auto


class ChangeKind(Enum):
    """What a change does to its table."""

    CREATE = auto()
    ALTER = auto()
    DROP = auto()


@dataclass(frozen=True)
class Change:
    """The statements of one step, up and down.

    `description` follows the table's name in the revision's docstring. `loss` says which data
    could be lost or may not fit: the contract must acknowledge that on `column`, or else for the
    table. A change without statements cannot be acknowledged. `is_online`: the statements run
    outside a transaction. `target` is the table that a foreign key references.
    """

    table: str
    description: str
    upgrade: tuple[str, ...]
    downgrade: tuple[str, ...]
    kind: ChangeKind = ChangeKind.ALTER
    column: str | None = None
    loss: str | None = None
    is_online: bool = False
    target: str | None = None
