"""Handlers that fail, wait and echo, as tests need them; never part of the service."""

import asyncio
import os
from pathlib import Path
from typing import Any

from db.tenancy import Session


async def fail(token_info: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
    secret = body["name"]
    raise RuntimeError(f"{len(secret)} characters\n{secret}")


async def statement(nobody: Session) -> dict[str, Any]:
    await nobody.fetch("select no_such_column from pg_class")
    return {}


async def slow(nobody: Session) -> dict[str, str]:
    await nobody.fetch("select pg_sleep(20)")
    return {"seen": "slept"}


async def slow_transaction(nobody: Session) -> dict[str, str]:
    async with nobody.transaction() as tx:
        await tx.fetch("select pg_sleep(20)")
    return {"seen": "slept"}


async def by_client(n: int | None = None) -> dict[str, str]:
    return {"seen": repr(n)}


async def by_tenant(token_info: dict[str, Any]) -> dict[str, str]:
    return {"seen": token_info["org_id"]}


async def shared() -> dict[str, str]:
    return {"seen": "shared"}


async def closed() -> dict[str, str]:
    return {"seen": "closed"}


async def wrong() -> dict[str, Any]:
    return {"undeclared": "canary"}


async def wait() -> dict[str, str]:
    file = Path(os.environ["PLANT_FILE"])
    _wait(file)
    while not _may_go(file):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    return {"seen": "waited"}


async def values(
    ratio: float | None = None,
    flag: bool | None = None,
    words: list[str] | None = None,
    at: str | None = None,
    x_level: int | None = None,
) -> dict[str, str]:
    return {"seen": f"{ratio!r} {flag!r} {words!r} {at!r} {x_level!r}"}


async def create(body: dict[str, Any] | None = None) -> dict[str, str]:
    return {"seen": repr(body)}


async def latest() -> dict[str, str]:
    return {"seen": "latest"}


async def get(thing_id: str) -> dict[str, str]:
    return {"seen": thing_id}


async def number(number_id: int) -> dict[str, str]:
    return {"seen": repr(number_id)}


def _wait(file: Path) -> None:
    """Say that a request is in flight; it ends when the test lets it."""
    file.with_suffix(".waiting").touch()


def _may_go(file: Path) -> bool:
    return file.with_suffix(".go").exists()
