"""Statements on projects: one function, one statement."""

from orjson import Fragment

from db.pages import page
from db.tenancy import Door, one


async def insert(tenant: Door, org_id: str, id: str, name: str) -> Fragment:
    """Raises `Conflict` for a name that is taken, `NotFound` for another tenant's `org_id`."""
    return one(
        await tenant.fetch(
            """with project as (
                   insert into projects (org_id, id, name) values ($1, $2, $3)
                   returning id, org_id, name, created_at)
               select row_to_json(project) from project""",
            org_id,
            id,
            name,
        )
    )


async def get(tenant: Door, org_id: str, id: str) -> Fragment:
    """Return one project. Raises `NotFound`, also when another tenant owns it."""
    return one(
        await tenant.fetch(
            """select row_to_json(project) from (
                   select id, org_id, name, created_at from projects
                   where org_id = $1 and id = $2) project""",
            org_id,
            id,
        )
    )


async def list_(tenant: Door, org_id: str, after: str, limit: int) -> dict[str, object]:
    """Return a page of the organization's projects. Raises `NotFound` for another tenant's."""
    rows = await tenant.fetch(
        """select project.id, row_to_json(project) from organizations left join lateral (
               select id, org_id, name, created_at from projects
               where org_id = organizations.id and id > $2 order by id limit $3) project on true
           where organizations.id = $1""",
        org_id,
        after,
        str(limit + 1),
    )
    return page(rows, limit)


async def delete(tenant: Door, org_id: str, id: str) -> None:
    """Raises `NotFound`, also when another tenant owns it."""
    one(
        await tenant.fetch(
            "delete from projects where org_id = $1 and id = $2 returning id", org_id, id
        )
    )
