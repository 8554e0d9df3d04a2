"""Guests: the database stores only a sequence that numbers them."""

from db.tenancy import Session


async def next_number(session: Session) -> int:
    """Return a number that no guest of this database had before."""
    rows = await session.fetch("select nextval('guest_number')")
    return int(rows[0][0] or 0)
