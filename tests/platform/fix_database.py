"""The service's connections to a database, in this process."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from db.connections.database import Database as Connections

ORG_ID = "01939b1e-7a00-7000-8000-00000000ac3e"

Url = str | Callable[[], str]


@asynccontextmanager
async def connecting(url: Url, **options: Any) -> AsyncIterator[tuple[Connections, list[str]]]:
    """Yield connections that have just been opened, and the list of why they are refused."""
    refusals: list[str] = []
    connections = Connections(url, refuse=refusals.append, **options)
    await connections.open()
    try:
        yield connections, refusals
    finally:
        await connections.close()


async def eventually(condition: Callable[[], Any], timeout: float = 10) -> None:  # noqa: ASYNC109
    """Return once the condition is true. Raises `TimeoutError`."""
    async with asyncio.timeout(timeout):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def run_connected(
    url: Url, test: Callable[[Connections], Coroutine[Any, Any, None]], **options: Any
) -> None:
    """Run a test with connections that are ready."""

    async def main() -> None:
        async with connecting(url, **options) as (connections, _):
            await eventually(lambda: connections.not_ready_reason is None)
            await test(connections)

    asyncio.run(main())
