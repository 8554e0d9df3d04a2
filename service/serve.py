"""`serve` and `check`: the service as one process."""

import asyncio
import gc
import socket

import uvloop

from service import startup
from service.app import Parts, create_app
from service.exits import stop
from service.http import admin, server
from service.identity.keys import KeysError
from service.operations.operation import HandlerError
from service.settings import Settings
from service.telemetry import logs


def serve() -> None:
    """Serve the contract until a signal; exit 0 then, 1 when the service must not serve."""
    environment, parts = check()
    demand_free(environment)
    # What was made until now lives as long as the process: the collector need not look at it.
    gc.freeze()
    run(environment, parts)
    if parts.status.refusal:
        raise SystemExit(1)


def run(environment: Settings, parts: Parts) -> None:
    """Serve until a signal, on the event loop that the service is made for."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(until_stopped(environment, parts))


async def until_stopped(environment: Settings, parts: Parts) -> None:
    """Serve both ports; the admin port outlives the drain of the other."""
    async with admin.serving(parts.admin, environment.host, environment.admin_port):
        await server.server(parts.app, environment, parts.status, parts.metrics).serve()


def check() -> tuple[Settings, Parts]:
    """Return the service, ready to be served; exit 1 with every reason when it cannot be."""
    environment, contract = startup.accepted()
    logs.configure(environment.log_format)
    try:
        return environment, create_app(environment, contract)
    except (KeysError, HandlerError) as error:
        stop(str(error))


def demand_free(environment: Settings) -> None:
    """Say in one line that a port is taken, before anything is started for nothing."""
    _demand_free("PORT", environment.host, environment.port)
    if environment.admin_port is not None:
        _demand_free("ADMIN_PORT", environment.host, environment.admin_port)


def _demand_free(name: str, host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            stop(f"{name}: cannot listen on {host}:{port}: {error.strerror}")
        except UnicodeError:
            stop(f"HOST: cannot listen on {host}:{port}: not the name of a host")
