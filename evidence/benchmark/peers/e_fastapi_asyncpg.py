"""Peer E: FastAPI and asyncpg, no ORM."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any
from uuid import UUID

import asyncpg
from fastapi import Depends, FastAPI, HTTPException, Query, Request

from evidence.benchmark.peers import shared
from evidence.benchmark.peers.fastapi_common import (
    Health,
    Principal,
    Project,
    ProjectPage,
    ProjectRequest,
)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with asyncpg.create_pool(shared.DATABASE, min_size=16, max_size=16) as pool:
        app.state.pool = pool
        yield


app = FastAPI(lifespan=lifespan)


async def connection(request: Request, principal: Principal) -> AsyncIterator[Any]:
    async with request.app.state.pool.acquire() as acquired, acquired.transaction():
        await acquired.execute("select set_config('app.org_id', $1, true)", principal["org_id"])
        yield acquired


Connection = Annotated[Any, Depends(connection)]


@app.get("/health")
async def health() -> Health:
    return Health(status="alive")


@app.get("/orgs/{org_id}/projects/{project_id}", response_model=Project)
async def get(org_id: UUID, project_id: UUID, connection: Connection) -> Any:
    row = await connection.fetchrow(
        "select id, org_id, name, created_at from projects where org_id = $1 and id = $2",
        org_id,
        project_id,
    )
    if row is None:
        raise HTTPException(404)
    return dict(row)


@app.get("/orgs/{org_id}/projects", response_model=ProjectPage, response_model_exclude_none=True)
async def list_(
    org_id: UUID,
    connection: Connection,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: str | None = None,
) -> Any:
    rows = await connection.fetch(
        """select id, org_id, name, created_at from projects
           where org_id = $1 and id > $2 order by id limit $3""",
        org_id,
        shared.position(cursor),
        limit + 1,
    )
    more = shared.cursor(rows[limit - 1]["id"]) if len(rows) > limit else None
    return {"items": [dict(row) for row in rows[:limit]], "next": more}


@app.post("/orgs/{org_id}/projects", response_model=Project, status_code=201)
async def create(org_id: UUID, body: ProjectRequest, connection: Connection) -> Any:
    row = await connection.fetchrow(
        """insert into projects (org_id, id, name) values ($1, $2, $3)
           returning id, org_id, name, created_at""",
        org_id,
        shared.new_id(),
        body.name,
    )
    return dict(row)
