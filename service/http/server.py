"""The server's lifecycle: it drains after the first signal, then stops accepting, then exits."""

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
TICK_SECONDS = 0.1  # the interval of uvicorn's main loop
DEADLINE_CHECK_TICKS = 5  # between two checks of the connections' deadlines
KEEP_ALIVE_SECONDS = 75
MAX_CONNECTIONS = 10_000
RESERVED_DESCRIPTORS = 200  # for the database, the log and the rest

log = structlog.get_logger("covenant.lifecycle")


class Server(uvicorn.Server):
    """Drains on SIGTERM: `/ready` turns 503 while requests are still accepted.

    The drain takes `drain_seconds`; SIGINT, or a second signal, skips it. Then requests in flight
    have `SHUTDOWN_GRACE_SECONDS` to finish, unless another signal ends them at once.
    """

    def __init__(
        self, config: uvicorn.Config, status: Status, metrics: Metrics, drain_seconds: float
    ) -> None:
        super().__init__(config)
        self._status = status
        self._metrics = metrics
        self._drain_seconds = drain_seconds
        self._next_tick_at = math.inf

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals like uvicorn, but do not raise them again: the exit code is 0."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, number)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    async def on_tick(self, counter: int) -> bool:
        """Measure the lag of the event loop, stop on a fatal error, check deadlines."""
        now = asyncio.get_running_loop().time()
        self._metrics.loop_lag_seconds += max(0.0, now - self._next_tick_at)
        self._next_tick_at = now + TICK_SECONDS
        if self._status.fatal_error and not self.should_exit:
            log.critical("service_refused", reason=self._status.fatal_error)
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
    """End the connections that missed their deadlines, every `DEADLINE_CHECK_TICKS` ticks."""
    if counter % DEADLINE_CHECK_TICKS == 0:
        now = asyncio.get_running_loop().time()
        for connection in tuple(server.server_state.connections):
            connection.check_deadline(now)  # type: ignore[union-attr]


def max_connections() -> int:
    """Return how many connections to accept, given the limit of file descriptors."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 0:
        return MAX_CONNECTIONS
    return max(1, min(MAX_CONNECTIONS, soft - RESERVED_DESCRIPTORS))


def create_server(app: object, settings: Settings, status: Status, metrics: Metrics) -> Server:
    """Return a server that is ready to run `app`."""
    config = uvicorn_config(
        app,
        settings.host,
        settings.port,
        partial(HttpProtocol, metrics=metrics, max_connections=max_connections()),
        loop="uvloop",
        lifespan="on",
        backlog=1024,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=SHUTDOWN_GRACE_SECONDS,
    )
    return Server(config, status, metrics, settings.drain_seconds)


def uvicorn_config(
    app: object, host: str, port: int, http: object, **options: Any
) -> uvicorn.Config:
    """Return a configuration without uvicorn's own log, headers and proxy handling."""
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
        **options,
    )
