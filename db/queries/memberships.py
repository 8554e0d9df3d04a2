"""Statements on memberships: one function, one statement."""

from db.tenancy import Session, single_row


async def require(subject: Session, name: str, org_id: str) -> None:
    """Return if the subject called `name` is a member of the organization. Raises `NotFound`."""
    single_row(
        await subject.fetch(
            "select role from memberships where subject = $1 and org_id = $2", name, org_id
        )
    )
