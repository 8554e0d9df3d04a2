"""`make run`: everything that the service needs, on this machine, with nothing to set up."""

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from db import revisions, roles
from dev.local import embedded
from dev.local.embedded import EmbeddedError
from openapi import contract
from openapi.contract import ContractError
from service import settings
from service.exits import exit_with
from service.identity import keys
from service.identity.keys import KeysError
from service.serve import check_ports, serve
from service.settings import SettingsError

LOCAL = Path(".local")
DATABASE = "covenant"
# What is made here when it is not given; until then these stand for it.
CREATED_HERE = {"DATABASE_URL": "postgresql://", "KEYS_DIR": str(LOCAL / "keys")}
OWNER_URL = "MIGRATION_DATABASE_URL"
SERVING_URLS = {"DATABASE_URL", "DATABASE_URL_FILE"}
INTERRUPTED = 130


def run_service() -> None:
    """Serve until a signal, with what is not given started and made here."""
    with_local_stack(_serve)


def _serve() -> None:
    os.environ.pop(OWNER_URL, None)  # the process that serves never holds the owner's password
    serve()


def with_local_stack(service: Callable[[], None]) -> None:
    """Start what is not given, migrate, run `service`, stop what was started."""
    try:
        _validate()
        with _database():
            _keys()
            if code := migrate():
                raise SystemExit(code)
            _print_banner()
            service()
    except (SettingsError, ContractError, EmbeddedError, KeysError) as error:
        exit_with(str(error))
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None


def _validate() -> None:
    """Refuse what would be refused later, before anything is started for nothing."""
    given = {name: value for name, value in os.environ.items() if value}
    made = {name: value for name, value in CREATED_HERE.items() if f"{name}_FILE" not in given}
    read = settings.load(made | given)
    if "MIGRATION_DATABASE_URL" in given and not SERVING_URLS & given.keys():
        raise SettingsError("DATABASE_URL: missing, although MIGRATION_DATABASE_URL is given")
    contract.load()
    check_ports(read)


@contextmanager
def _database() -> Iterator[None]:
    if any(os.environ.get(name) for name in SERVING_URLS):
        yield
        return
    with embedded.running(LOCAL / "postgresql") as server:
        owner, app = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
        roles.make_roles(server.url(), owner, app)
        roles.make_database(server.url(), DATABASE)
        os.environ[OWNER_URL] = server.url(roles.OWNER, owner, DATABASE)
        os.environ["DATABASE_URL"] = server.url(roles.APP, app, DATABASE)
        yield


def _keys() -> None:
    if os.environ.get("KEYS_DIR"):
        return
    directory = LOCAL / "keys"
    if not directory.is_dir() or not any(not f.name.startswith(".") for f in directory.iterdir()):
        keys.create_key(directory, time.time())
    os.environ["KEYS_DIR"] = str(directory)


def migrate() -> int:
    """Bring the database up to the newest revision there is by now, and return the exit code."""
    revisions.head.cache_clear()
    url = os.environ.get(OWNER_URL)
    if not url or revisions.is_up_to_date(url):
        return 0
    return subprocess.run(
        [sys.executable, "-m", "service", "migrate"],
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for this process, which then ends that one
        check=False,
    ).returncode


def _print_banner() -> None:
    host, port = os.environ.get("HOST") or "127.0.0.1", os.environ.get("PORT") or "8080"
    base = f"http://{f'[{host}]' if ':' in host else host}"
    admin_port = os.environ.get("ADMIN_PORT")
    metrics = f"  Metrics      {base}:{admin_port}/metrics\n" if admin_port else ""
    base = f"{base}:{port}"
    print(
        f"""
  Swagger UI   {base}/ui
  First call   curl -X POST {base}/auth/guest
{metrics}  Stop         Ctrl-C
""",
        flush=True,
    )
