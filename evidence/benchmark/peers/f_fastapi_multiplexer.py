"""Peer F: FastAPI on this service's own data path; PostgreSQL writes the JSON."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any
from uuid import UUID

from fastapi import FastAPI, HTTPException, Query, Response

from db.connections.multiplexer import Multiplexer
from evidence.benchmark.peers import shared
from evidence.benchmark.peers.fastapi_common import Health, Principal, ProjectRequest

JSON = "application/json"


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    reads, writes = (
        Multiplexer(shared.DATABASE, connections=4, read_only=read_only)
        for read_only in (True, False)
    )
    app.state.reads, app.state.writes = reads, writes
    await reads.open()
    await writes.open()
    yield
    await reads.close()
    await writes.close()


app = FastAPI(lifespan=lifespan)


@app.get("/health")
async def health() -> Health:
    return Health(status="alive")


@app.get("/orgs/{org_id}/projects/{project_id}")
async def get(org_id: UUID, project_id: UUID, principal: Principal) -> Response:
    rows = await app.state.reads.fetch(
        _settings(principal),
        """select row_to_json(project) from (
               select id, org_id, name, created_at from projects
               where org_id = $1 and id = $2) project""",
        (str(org_id), str(project_id)),
    )
    if not rows:
        raise HTTPException(404)
    return Response(rows[0][0], media_type=JSON)


@app.get("/orgs/{org_id}/projects")
async def list_(
    org_id: UUID,
    principal: Principal,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: str | None = None,
) -> Response:
    rows = await app.state.reads.fetch(
        _settings(principal),
        """select id, row_to_json(project) from (
               select id, org_id, name, created_at from projects
               where org_id = $1 and id > $2 order by id limit $3) project""",
        (str(org_id), str(shared.position(cursor)), str(limit + 1)),
    )
    body = b'{"items":[' + b",".join(row[1] for row in rows[:limit]) + b"]"
    if len(rows) > limit:
        body += b',"next":"' + shared.cursor(UUID(rows[limit - 1][0].decode())).encode() + b'"'
    return Response(body + b"}", media_type=JSON)


@app.post("/orgs/{org_id}/projects")
async def create(org_id: UUID, body: ProjectRequest, principal: Principal) -> Response:
    rows = await app.state.writes.fetch(
        _settings(principal),
        """with project as (
               insert into projects (org_id, id, name) values ($1, $2, $3)
               returning id, org_id, name, created_at)
           select row_to_json(project) from project""",
        (str(org_id), str(shared.new_id()), body.name),
    )
    return Response(rows[0][0], status_code=201, media_type=JSON)


def _settings(principal: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    return (("app.org_id", principal["org_id"]),)
