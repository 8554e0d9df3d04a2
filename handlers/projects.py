"""Projects of the organization that the token is bound to."""

from typing import Any

from orjson import Fragment

from db import ids, pages, projects
from db.tenancy import Door


async def create(
    org_id: str, body: dict[str, str], tenant: Door
) -> tuple[Fragment, int, dict[str, str]]:
    id = ids.new()
    project = await projects.insert(tenant, org_id, id, body["name"])
    return project, 201, {"Location": f"/orgs/{org_id}/projects/{id}"}


async def list_(org_id: str, tenant: Door, limit: int, cursor: str | None = None) -> dict[str, Any]:
    return await projects.list_(tenant, org_id, pages.position(cursor), limit)


async def get(org_id: str, project_id: str, tenant: Door) -> Fragment:
    return await projects.get(tenant, org_id, project_id)


async def delete(org_id: str, project_id: str, tenant: Door) -> None:
    await projects.delete(tenant, org_id, project_id)
