"""Peer A: FastAPI, SQLAlchemy's async ORM and asyncpg, as in their documentation."""

from collections.abc import AsyncIterator
from typing import Annotated, Any
from uuid import UUID

from fastapi import Depends, FastAPI, HTTPException, Query
from sqlalchemy.ext.asyncio import AsyncSession

from evidence.benchmark.peers import orm, shared
from evidence.benchmark.peers.fastapi_common import (
    Health,
    Principal,
    Project,
    ProjectPage,
    ProjectRequest,
)

app = FastAPI()
sessions = orm.Sessions("asyncpg")


async def session(principal: Principal) -> AsyncIterator[AsyncSession]:
    async with sessions.bound(principal["org_id"]) as bound:
        yield bound


Session = Annotated[AsyncSession, Depends(session)]


@app.get("/health")
async def health() -> Health:
    return Health(status="alive")


@app.get("/orgs/{org_id}/projects/{project_id}", response_model=Project)
async def get(org_id: UUID, project_id: UUID, session: Session) -> Any:
    project = await orm.get(session, org_id, project_id)
    if project is None:
        raise HTTPException(404)
    return project


@app.get("/orgs/{org_id}/projects", response_model=ProjectPage, response_model_exclude_none=True)
async def list_(
    org_id: UUID,
    session: Session,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: str | None = None,
) -> Any:
    rows = await orm.page(session, org_id, shared.position(cursor), limit)
    more = shared.cursor(rows[limit - 1].id) if len(rows) > limit else None
    return {"items": rows[:limit], "next": more}


@app.post("/orgs/{org_id}/projects", response_model=Project, status_code=201)
async def create(org_id: UUID, body: ProjectRequest, session: Session) -> Any:
    return await orm.insert(session, org_id, shared.new_id(), body.name)
