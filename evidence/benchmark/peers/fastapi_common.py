"""What the FastAPI peers share: models, and the principal as a dependency."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import jwt
from fastapi import Depends, Header, HTTPException
from pydantic import BaseModel, ConfigDict, Field

from evidence.benchmark.peers import shared


class ProjectRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str = Field(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]+$")


class Project(BaseModel):
    model_config = ConfigDict(from_attributes=True)
    id: UUID
    org_id: UUID
    name: str
    created_at: datetime


class ProjectPage(BaseModel):
    items: list[Project]
    next: str | None = None


class Health(BaseModel):
    status: str


def principal(authorization: Annotated[str, Header()] = "") -> dict[str, Any]:
    try:
        return shared.claims(authorization)
    except jwt.InvalidTokenError:
        raise HTTPException(401) from None


Principal = Annotated[dict[str, Any], Depends(principal)]
