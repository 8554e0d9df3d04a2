"""From the first signal to the exit: not ready, then closed to new requests, then gone."""

import asyncio
import math
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import structlog
import uvicorn

from service.http.protocol import HttpProtocol
from service.settings import Settings
from service.status import Status
from service.telemetry.metrics import Metrics

SHUTDOWN_GRACE_SECONDS = 10
TICK_SECONDS = 0.1  # uvicorn's
# Ticks from one look at the connections' deadlines to the next.
DEADLINE_CHECK_TICKS = 5
MAX_CONNECTIONS = 10_000
RESERVED_DESCRIPTORS = 200

log = structlog.get_logger("covenant.lifecycle")


class Server(uvicorn.Server):
    """SIGTERM drains: `/ready` turns 503 while requests are still taken for `drain_seconds`.

    SIGINT, or a second signal, stops at once; requests in flight have `GRACE` seconds.
    """

    def __init__(
        self, config: uvicorn.Config, status: Status, metrics: Metrics, drain_seconds: float
    ) -> None:
        super().__init__(config)
        self._status = status
        self._metrics = metrics
        self._drain_seconds = drain_seconds
        self._due = math.inf

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, but a signal that was obeyed is not raised again: the exit code is 0."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, number)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    async def on_tick(self, counter: int) -> bool:
        now = asyncio.get_running_loop().time()
        self._metrics.late += max(0.0, now - self._due)
        self._due = now + TICK_SECONDS
        if self._status.refusal and not self.should_exit:
            log.critical(self._status.refusal)
            self.should_exit = True
        check_deadlines(self, counter)
        return await super().on_tick(counter)

    def _stop(self, number: int) -> None:
        if self._status.stopping:
            self.force_exit = self.should_exit
            self.should_exit = True
            return
        self._status.stopping = True
        drain = self._drain_seconds if number == signal.SIGTERM else 0
        log.info("stopping", signal=signal.Signals(number).name, drain_seconds=drain)
        asyncio.get_running_loop().call_later(drain, setattr, self, "should_exit", True)


def check_deadlines(server: uvicorn.Server, counter: int) -> None:
    """Hold every connection to its deadline, at each tick that is for that."""
    if counter % DEADLINE_CHECK_TICKS == 0:
        now = asyncio.get_running_loop().time()
        for connection in tuple(server.server_state.connections):
            connection.look(now)  # type: ignore[union-attr]


def max_connections() -> int:
    """How many there may be, so that descriptors are left for the database and the rest."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return (
        MAX_CONNECTIONS if soft < 0 else max(1, min(MAX_CONNECTIONS, soft - RESERVED_DESCRIPTORS))
    )


def create_server(app: object, settings: Settings, status: Status, metrics: Metrics) -> Server:
    """Return a server that is ready to run `app`."""
    listening = uvicorn_config(
        app,
        settings.host,
        settings.port,
        partial(HttpProtocol, metrics=metrics, most=max_connections()),
        loop="uvloop",
        lifespan="on",
        backlog=1024,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=SHUTDOWN_GRACE_SECONDS,
    )
    return Server(listening, status, metrics, settings.drain_seconds)


def uvicorn_config(app: object, host: str, port: int, http: object, **own: Any) -> uvicorn.Config:
    """Return what every server of ours has, and its own: nothing that uvicorn would add or log."""
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        host=host,
        port=port,
        http=http,  # type: ignore[arg-type]
        ws="none",
        interface="asgi3",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        **own,
    )
