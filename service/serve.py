"""The commands `serve` and `check`."""

import asyncio
import gc
import socket

import uvloop

from service import startup
from service.app import App, create_app
from service.exits import exit_with
from service.http import admin
from service.http.server import create_server
from service.identity.keys import KeysError
from service.operations.invocation import HandlerError
from service.settings import Settings
from service.telemetry import logs


def serve() -> None:
    """Serve until a signal, then exit 0; exit 1 when the service must not serve."""
    settings, app = assemble()
    check_ports(settings)
    # What exists by now lives as long as the process: the garbage collector can ignore it.
    gc.freeze()
    run(settings, app)
    if app.status.fatal_error:
        raise SystemExit(1)


def run(settings: Settings, app: App) -> None:
    """Serve until a signal, on uvloop."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve_until_stopped(settings, app))


async def serve_until_stopped(settings: Settings, app: App) -> None:
    """Serve both ports; the admin port is served until the other one has drained."""
    async with admin.serving(app.admin, settings.host, settings.admin_port):
        await create_server(app.app, settings, app.status, app.metrics).serve()


def assemble() -> tuple[Settings, App]:
    """Return the service, or exit 1 with everything that keeps it from serving."""
    settings, contract = startup.load_and_validate()
    logs.configure(settings.log_format)
    try:
        return settings, create_app(settings, contract)
    except (KeysError, HandlerError) as error:
        exit_with(str(error))


def check_ports(settings: Settings) -> None:
    """Exit with one line when a port cannot be listened on, before anything is started."""
    _check_port("PORT", settings.host, settings.port)
    if settings.admin_port is not None:
        _check_port("ADMIN_PORT", settings.host, settings.admin_port)


def _check_port(name: str, host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            exit_with(f"{name}: cannot listen on {host}:{port}: {error.strerror}")
        except UnicodeError:
            exit_with(f"HOST: cannot listen on {host}:{port}: not a host name")
