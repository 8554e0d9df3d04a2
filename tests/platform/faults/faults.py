"""Handlers that fail, wait and echo, for tests only; never part of the service."""

import asyncio
import os
from pathlib import Path
from typing import Any

from db.tenancy import Session
from service.identity.tokens import Principal


async def fail(principal: Principal, body: dict[str, Any]) -> dict[str, Any]:
    secret = body["name"]
    raise RuntimeError(f"{len(secret)} characters\n{secret}")


async def statement(anonymous: Session) -> dict[str, Any]:
    await anonymous.fetch("select no_such_column from pg_class")
    return {}


async def slow(anonymous: Session) -> dict[str, str]:
    await anonymous.fetch("select pg_sleep(20)")
    return {"received": "slept"}


async def slow_transaction(anonymous: Session) -> dict[str, str]:
    async with anonymous.transaction() as tx:
        await tx.fetch("select pg_sleep(20)")
    return {"received": "slept"}


async def by_client(n: int | None = None) -> dict[str, str]:
    return {"received": repr(n)}


async def by_tenant(principal: Principal) -> dict[str, str]:
    return {"received": principal.org_id}


async def shared() -> dict[str, str]:
    return {"received": "shared"}


async def closed() -> dict[str, str]:
    return {"received": "closed"}


async def wrong() -> dict[str, Any]:
    return {"undeclared": "canary"}


async def wait() -> dict[str, str]:
    """Create the file `.waiting`, then wait until the test creates the file `.go`."""
    contract = Path(os.environ["FAULTS_CONTRACT"])
    await asyncio.to_thread(contract.with_suffix(".waiting").touch)
    while not await asyncio.to_thread(contract.with_suffix(".go").exists):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    return {"received": "waited"}


async def values(
    ratio: float | None = None,
    flag: bool | None = None,
    words: list[str] | None = None,
    at: str | None = None,
    x_level: int | None = None,
) -> dict[str, str]:
    return {"received": f"{ratio!r} {flag!r} {words!r} {at!r} {x_level!r}"}


async def create(body: dict[str, Any] | None = None) -> dict[str, str]:
    return {"received": repr(body)}


async def latest() -> dict[str, str]:
    return {"received": "latest"}


async def get(thing_id: str) -> dict[str, str]:
    return {"received": thing_id}


async def number(number_id: int) -> dict[str, str]:
    return {"received": repr(number_id)}
