"""SQLAlchemy's async ORM, used by peer A with asyncpg and peer B with psycopg."""

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime

from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from evidence.benchmark.peers.shared import DATABASE


class Base(DeclarativeBase):
    pass


class Project(Base):
    __tablename__ = "projects"
    org_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    name: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Sessions:
    """Opens one session and one transaction per request, bound to the tenant of the token."""

    def __init__(self, driver: str) -> None:
        url = DATABASE.replace("postgresql://", f"postgresql+{driver}://")
        self._engine = create_async_engine(url, pool_size=16)
        self._sessionmaker = async_sessionmaker(self._engine, expire_on_commit=False)

    @asynccontextmanager
    async def bound(self, org_id: str) -> AsyncIterator[AsyncSession]:
        async with self._sessionmaker.begin() as session:
            await session.execute(
                text("select set_config('app.org_id', :org_id, true)"), {"org_id": org_id}
            )
            yield session


async def get(session: AsyncSession, org_id: uuid.UUID, id: uuid.UUID) -> Project | None:
    project: Project | None = await session.scalar(
        select(Project).where(Project.org_id == org_id, Project.id == id)
    )
    return project


async def page(
    session: AsyncSession, org_id: uuid.UUID, after: uuid.UUID, limit: int
) -> list[Project]:
    query = select(Project).where(Project.org_id == org_id, Project.id > after)
    return list(await session.scalars(query.order_by(Project.id).limit(limit + 1)))


async def insert(session: AsyncSession, org_id: uuid.UUID, id: uuid.UUID, name: str) -> Project:
    project = Project(org_id=org_id, id=id, name=name)
    session.add(project)
    await session.flush()
    await session.refresh(project)
    return project
