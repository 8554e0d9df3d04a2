"""`serve` and `check`: the service as one process."""

import asyncio
import gc
import socket

import uvloop

from service import startup
from service.app import Parts, create_app
from service.exits import exit_with
from service.http import admin, server
from service.identity.keys import KeysError
from service.operations.operation import HandlerError
from service.settings import Settings
from service.telemetry import logs


def serve() -> None:
    """Serve the contract until a signal; exit 0 then, 1 when the service must not serve."""
    environment, parts = assemble()
    check_ports(environment)
    # What was made until now lives as long as the process: the collector need not look at it.
    gc.freeze()
    run(environment, parts)
    if parts.status.refusal:
        raise SystemExit(1)


def run(environment: Settings, parts: Parts) -> None:
    """Serve until a signal, on the event loop that the service is made for."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve_until_stopped(environment, parts))


async def serve_until_stopped(environment: Settings, parts: Parts) -> None:
    """Serve both ports; the admin port outlives the drain of the other."""
    async with admin.serving(parts.admin, environment.host, environment.admin_port):
        await server.create_server(parts.app, environment, parts.status, parts.metrics).serve()


def assemble() -> tuple[Settings, Parts]:
    """Return the service, ready to be served; exit 1 with every reason when it cannot be."""
    environment, contract = startup.load_and_validate()
    logs.configure(environment.log_format)
    try:
        return environment, create_app(environment, contract)
    except (KeysError, HandlerError) as error:
        exit_with(str(error))


def check_ports(environment: Settings) -> None:
    """Say in one line that a port is taken, before anything is started for nothing."""
    _check_port("PORT", environment.host, environment.port)
    if environment.admin_port is not None:
        _check_port("ADMIN_PORT", environment.host, environment.admin_port)


def _check_port(name: str, host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            exit_with(f"{name}: cannot listen on {host}:{port}: {error.strerror}")
        except UnicodeError:
            exit_with(f"HOST: cannot listen on {host}:{port}: not the name of a host")
