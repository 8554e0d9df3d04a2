"""Statements on guests: there is nothing of them but a number."""

from db.tenancy import Session


async def next_number(nobody: Session) -> int:
    """Return a number that no guest of this database had before."""
    rows = await nobody.fetch("select nextval('guest_number')")
    return int(rows[0][0] or 0)
