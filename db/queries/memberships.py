"""Memberships: which subjects belong to an organization."""

from db.tenancy import Session, single_row


async def require(session: Session, subject: str, org_id: str) -> None:
    """Raise `NotFound` unless `subject` is a member of the organization."""
    single_row(
        await session.fetch(
            "select role from memberships where subject = $1 and org_id = $2", subject, org_id
        )
    )
