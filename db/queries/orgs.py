"""Organizations and their first membership."""

from orjson import Fragment

from db.sql.pagination import page_body
from db.tenancy import Session, Transaction, single_row


async def claim_id(tx: Transaction, org_id: str) -> bool:
    """Reserve an organization id permanently; return False when it was used before."""
    claimed = await tx.run(
        "insert into used_org_ids (org_id) values ($1) on conflict do nothing", org_id
    )
    return claimed == 1


async def insert(tx: Transaction, org_id: str, name: str) -> Fragment:
    """Create the organization whose id the transaction has bound, and return it."""
    return single_row(
        await tx.fetch(
            """with org as (
                   insert into organizations (id, name) values ($1, $2)
                   returning id, name, status, created_at)
               select row_to_json(org) from org""",
            org_id,
            name,
        )
    )


async def insert_owner(tx: Transaction, org_id: str, subject: str) -> None:
    """Make `subject` the owner of the organization."""
    await tx.run(
        "insert into memberships (org_id, subject, role) values ($1, $2, 'owner')", org_id, subject
    )


async def get(session: Session, subject: str, org_id: str) -> Fragment:
    """Return an organization that `subject` is a member of. Raises `NotFound`."""
    return single_row(
        await session.fetch(
            """select row_to_json(org) from (
                   select o.id, o.name, o.status, o.created_at
                   from memberships m join organizations o on o.id = m.org_id
                   where m.subject = $1 and m.org_id = $2) org""",
            subject,
            org_id,
        )
    )


async def list_(session: Session, subject: str, after: str, limit: int) -> dict[str, object]:
    """Return a page of the organizations that `subject` is a member of, after an id."""
    rows = await session.fetch(
        """select org.id, row_to_json(org) from (
               select o.id, o.name, o.status, o.created_at
               from memberships m join organizations o on o.id = m.org_id
               where m.subject = $1 and m.org_id > $2 order by m.org_id limit $3) org
           order by org.id""",
        subject,
        after,
        str(limit + 1),
    )
    return page_body(rows or [(None, None)], limit)


async def delete(session: Session, org_id: str) -> None:
    """Delete an organization that the subject owns. Raises `NotFound`."""
    single_row(await session.fetch("delete from organizations where id = $1 returning id", org_id))
