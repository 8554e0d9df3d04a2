"""Statements on projects: one function, one statement."""

from orjson import Fragment

from db.pages import page
from db.tenancy import Door, one

PROJECT = """json_build_object(
    'id', id, 'org_id', org_id, 'name', name, 'created_at', created_at)"""


async def insert(tenant: Door, org_id: str, id: str, name: str) -> Fragment:
    """Raises `Conflict` for a name that is taken, `NotFound` for another tenant's `org_id`."""
    return one(
        await tenant.fetch(
            f"insert into projects (org_id, id, name) values ($1, $2, $3) returning {PROJECT}",
            org_id,
            id,
            name,
        )
    )


async def get(tenant: Door, org_id: str, id: str) -> Fragment:
    """Return one project. Raises `NotFound`, also when another tenant owns it."""
    return one(
        await tenant.fetch(
            f"select {PROJECT} from projects where org_id = $1 and id = $2", org_id, id
        )
    )


async def list_(tenant: Door, org_id: str, after: str, limit: int) -> dict[str, object]:
    """Return a page of the organization's projects. Raises `NotFound` for another tenant's."""
    rows = await tenant.fetch(
        f"""select p.id, p.project from organizations o left join lateral (
                select id, {PROJECT} as project from projects
                where org_id = o.id and id > $2 order by id limit $3) p on true
            where o.id = $1""",
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
