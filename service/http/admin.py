"""The admin port: `GET /metrics`, on a port that no Ingress or Route exposes."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial

import uvicorn
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.types import ASGIApp, Receive, Scope, Send

from service.http.protocol import HttpProtocol
from service.http.responses import send_response
from service.http.server import check_deadlines, uvicorn_config
from service.telemetry.metrics import Metrics

MAX_CONNECTIONS = 32
HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


def create_admin_app(render: Callable[[], bytes]) -> ASGIApp:
    """Return the application of the admin port; `render` returns the metrics as text."""

    async def respond(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] != "/metrics":
            await send_response(send, 404, b"", HEADERS)
        elif scope["method"] != "GET":
            await send_response(send, 405, b"", HEADERS | {"Allow": "GET"})
        else:
            await send_response(send, 200, render(), HEADERS, CONTENT_TYPE_PLAIN_0_0_4)

    return respond


class AdminServer(uvicorn.Server):
    """A server that stops with the service, and handles no signal itself."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the service."""
        yield

    async def on_tick(self, counter: int) -> bool:
        """Check deadlines."""
        check_deadlines(self, counter)
        return await super().on_tick(counter)


@asynccontextmanager
async def serving(application: ASGIApp, host: str, port: int | None) -> AsyncIterator[None]:
    """Serve the admin port, if it is set, until the block ends: the drain is over by then."""
    if port is None:
        yield
        return
    # Metrics of its own: a scrape does not count as a request to the service.
    http = partial(HttpProtocol, metrics=Metrics({}), max_connections=MAX_CONNECTIONS)
    server = AdminServer(
        uvicorn_config(application, host, port, http, lifespan="off", timeout_graceful_shutdown=1)
    )
    task = asyncio.create_task(server.serve())
    try:
        yield
    finally:
        server.should_exit = True
        await task
