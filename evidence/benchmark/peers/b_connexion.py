"""Peer B: Connexion unmodified on the same contract, SQLAlchemy's async ORM and psycopg."""

import json
import os
from pathlib import Path
from typing import Any
from uuid import UUID

import jwt
from connexion import AsyncApp
from connexion.exceptions import OAuthProblem
from connexion.resolver import Resolver

from evidence.benchmark.peers import orm, shared

sessions = orm.Sessions("psycopg")


def principal(token: str) -> dict[str, Any]:
    try:
        return shared.claims(f"Bearer {token}")
    except jwt.InvalidTokenError:
        raise OAuthProblem from None


def _body(project: orm.Project) -> dict[str, Any]:
    return {
        "id": str(project.id),
        "org_id": str(project.org_id),
        "name": project.name,
        "created_at": project.created_at.isoformat(),
    }


async def health() -> Any:
    return {"status": "alive"}, 200, {"Content-Type": "application/json"}


async def get(org_id: str, project_id: str, token_info: dict[str, Any]) -> Any:
    async with sessions.bound(token_info["org_id"]) as session:
        project = await orm.get(session, UUID(org_id), UUID(project_id))
    if project is None:
        return {}, 404, {"Content-Type": "application/problem+json"}
    return _body(project), 200, {"Content-Type": "application/json"}


async def list_(
    org_id: str, token_info: dict[str, Any], limit: int = 20, cursor: str | None = None
) -> Any:
    async with sessions.bound(token_info["org_id"]) as session:
        rows = await orm.page(session, UUID(org_id), shared.position(cursor), limit)
    body: dict[str, Any] = {"items": [_body(row) for row in rows[:limit]]}
    if len(rows) > limit:
        body["next"] = shared.cursor(rows[limit - 1].id)
    return body, 200, {"Content-Type": "application/json"}


async def create(org_id: str, body: dict[str, str], token_info: dict[str, Any]) -> Any:
    async with sessions.bound(token_info["org_id"]) as session:
        project = await orm.insert(session, UUID(org_id), shared.new_id(), body["name"])
    return _body(project), 201, {"Content-Type": "application/json"}


HANDLERS = {
    "system.health": health,
    "projects.get": get,
    "projects.list": list_,
    "projects.create": create,
}


def contract() -> dict[str, Any]:
    """Return the service's contract, reduced to the operations that are measured."""
    document: dict[str, Any] = json.loads(Path(os.environ["BENCH_CONTRACT"]).read_text())
    for methods in document["paths"].values():
        for method in [m for m, o in methods.items() if m != "parameters"]:
            if methods[method]["operationId"] not in HANDLERS:
                del methods[method]
    scheme = document["components"]["securitySchemes"]["bearer"]
    scheme["x-bearerInfoFunc"] = "evidence.benchmark.peers.b_connexion.principal"
    return document


app = AsyncApp(__name__, resolver=Resolver(HANDLERS.__getitem__))
app.add_api(contract())
