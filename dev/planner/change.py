"""One step from the tables that there are to those of the contract."""

from dataclasses import dataclass

CREATED = "made"


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
