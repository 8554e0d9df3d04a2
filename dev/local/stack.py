"""`make run`: runs the service on this machine with everything it needs, without any settings."""

import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from db import revisions, roles
from db.errors import first_line
from db.security_audit import EMBEDDED_SERVER
from dev.local import embedded
from dev.local.embedded import EmbeddedError, Server
from openapi import contract
from openapi.contract import ContractError
from service import settings
from service.exits import exit_with
from service.identity import keys
from service.identity.keys import KeysError
from service.serve import check_ports, serve
from service.settings import Settings, SettingsError

LOCAL = Path(".local")
DATABASE = "covenant"
# Placeholders for the settings that this module provides, so that the others can be checked first.
PROVIDED = {"DATABASE_URL": "postgresql://", "KEYS_DIR": str(LOCAL / "keys")}
OWNER_URL = "MIGRATION_DATABASE_URL"
SERVING_URLS = {"DATABASE_URL", "DATABASE_URL_FILE"}
SERVER_POLL_SECONDS = 0.5
INTERRUPTED = 130


def run_service() -> None:
    """Serve until a signal; start PostgreSQL and create keys unless settings name others."""
    run_with_local_stack(_serve)


def _serve() -> None:
    os.environ.pop(OWNER_URL, None)  # the serving process must not have the owner's password
    serve()


def run_with_local_stack(service: Callable[[], None]) -> None:
    """Start the local stack, migrate, call `service`, and stop the stack.

    Exits 1 with one line per error.
    """
    try:
        environment = _validate()
        with _database():
            _provide_keys()
            if code := migrate():
                raise SystemExit(code)
            _print_banner(environment)
            service()
    except (SettingsError, ContractError, EmbeddedError, KeysError) as error:
        exit_with(str(error))
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None


def _validate() -> Settings:
    """Return the settings; raises the errors that would otherwise only occur after the start."""
    given = {name: value for name, value in os.environ.items() if value}
    provided = {name: v for name, v in PROVIDED.items() if f"{name}_FILE" not in given}
    environment = settings.load(provided | given)
    if OWNER_URL in given and not SERVING_URLS & given.keys():
        raise SettingsError(f"DATABASE_URL: is missing, although {OWNER_URL} is set")
    contract.load()
    check_ports(environment)
    return environment


@contextmanager
def _database() -> Iterator[None]:
    """Run an embedded PostgreSQL, and set the URLs to it, unless a server is configured."""
    if any(os.environ.get(name) for name in SERVING_URLS):
        yield
        return
    with embedded.running(LOCAL / "postgresql") as server:
        owner, app = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
        try:
            roles.create_roles(server.url(), owner, app)
            roles.create_database(server.url(), DATABASE)
        except psycopg.Error as error:
            reason = first_line(error)
            raise EmbeddedError(f"cannot set up PostgreSQL: {reason}. See {server.log}") from error
        os.environ[OWNER_URL] = server.url(roles.OWNER, owner, DATABASE)
        os.environ["DATABASE_URL"] = server.url(roles.APP, app, DATABASE)
        os.environ[EMBEDDED_SERVER] = f"{server.host}:{server.port}"
        with _ending_with(server):
            yield


@contextmanager
def _ending_with(server: Server) -> Iterator[None]:
    """Stop this process by SIGTERM, and exit 1, if the server ends before the block does."""
    is_done = threading.Event()

    def watch() -> None:
        while not is_done.wait(SERVER_POLL_SECONDS):
            if server.has_exited():
                print(
                    f"PostgreSQL has stopped unexpectedly: see {server.log}",
                    file=sys.stderr,
                    flush=True,
                )
                os.kill(os.getpid(), signal.SIGTERM)
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        is_done.set()
        watcher.join()
    if server.has_exited():
        raise SystemExit(1)


def _provide_keys() -> None:
    """Create a signing key and set KEYS_DIR, unless it is configured. Raises `KeysError`."""
    if os.environ.get("KEYS_DIR"):
        return
    directory = LOCAL / "keys"
    if not directory.is_dir() or not any(not f.name.startswith(".") for f in directory.iterdir()):
        keys.create_key(directory, time.time())
    os.environ["KEYS_DIR"] = str(directory)


def migrate() -> int:
    """Migrate the database to the newest revision on disk, if that is due; return the exit code."""
    revisions.history.cache_clear()
    url = os.environ.get(OWNER_URL)
    if not url or revisions.is_up_to_date(url):
        return 0
    return subprocess.run(
        [sys.executable, "-m", "service", "migrate"],
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C reaches this process first
        check=False,
    ).returncode


def _print_banner(environment: Settings) -> None:
    base = f"http://{f'[{environment.host}]' if ':' in environment.host else environment.host}"
    api, metrics = f"{base}:{environment.port}", f"{base}:{environment.admin_port}/metrics"
    lines = {
        "Swagger UI": f"{api}/ui" if environment.swagger_ui else None,
        "First call": f"curl -X POST {api}/auth/guest",
        "Metrics": metrics if environment.admin_port else None,
        "Stop": "Ctrl-C",
    }
    text = "".join(f"  {label:<12} {value}\n" for label, value in lines.items() if value)
    print(f"\n{text}", flush=True)
