"""Organizations: each is a tenant."""

from typing import Any

from orjson import Fragment

from db import ids
from db.queries import orgs
from db.sql import pagination
from db.tenancy import Session


async def create(
    body: dict[str, str], token_info: dict[str, Any], subject: Session
) -> tuple[Fragment, int, dict[str, str]]:
    name, org_id = token_info["sub"], token_info["org_id"]
    async with subject.transaction(org_id=org_id) as tx:
        if not await orgs.claim_id(tx, org_id):
            org_id = ids.new()
            await tx.bind(org_id=org_id)
            await orgs.claim_id(tx, org_id)
        org = await orgs.insert(tx, org_id, body["name"])
        await orgs.insert_owner(tx, org_id, name)
    return org, 201, {"Location": f"/orgs/{org_id}"}


async def list_(
    token_info: dict[str, Any], subject: Session, limit: int, cursor: str | None = None
) -> dict[str, Any]:
    return await orgs.list_(subject, token_info["sub"], pagination.decode_cursor(cursor), limit)


async def get(org_id: str, token_info: dict[str, Any], subject: Session) -> Fragment:
    return await orgs.get(subject, token_info["sub"], org_id)


async def delete(org_id: str, subject: Session) -> None:
    await orgs.delete(subject, org_id)
