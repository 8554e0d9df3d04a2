"""Organizations. Each one is a tenant."""

from typing import Any

from orjson import Fragment

from db import ids
from db.queries import orgs
from db.sql import pagination
from db.tenancy import Session
from service.identity.tokens import Principal


async def create(
    body: dict[str, str], principal: Principal, subject: Session
) -> tuple[Fragment, int, dict[str, str]]:
    org_id = principal.org_id
    async with subject.transaction(org_id=org_id) as tx:
        if not await orgs.claim_id(tx, org_id):
            org_id = ids.new()
            await tx.bind(org_id=org_id)
            await orgs.claim_id(tx, org_id)
        org = await orgs.insert(tx, org_id, body["name"])
        await orgs.insert_owner(tx, org_id, principal.subject)
    return org, 201, {"Location": f"/orgs/{org_id}"}


async def list_(
    principal: Principal, subject: Session, limit: int, cursor: str | None = None
) -> dict[str, Any]:
    after = pagination.decode_cursor(cursor)
    return await orgs.list_(subject, principal.subject, after, limit)


async def get(org_id: str, principal: Principal, subject: Session) -> Fragment:
    return await orgs.get(subject, principal.subject, org_id)


async def delete(org_id: str, subject: Session) -> None:
    await orgs.delete(subject, org_id)
