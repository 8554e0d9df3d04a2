"""`make run`: everything that the service needs, on this machine, with nothing to set up."""

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from db import embedded, roles
from db.embedded import EmbeddedError
from handlers import keys
from handlers.keys import KeysError
from handlers.runtime.exits import stop
from handlers.runtime.serve import serve

LOCAL = Path(".local")
DATABASE = "covenant"


def local() -> None:
    """Serve until a signal, with what is not given started and made here."""
    run(serve)


def run(service: Callable[[], None]) -> None:
    """Start what is not given, migrate, run `service`, stop what was started."""
    try:
        with _database():
            _keys()
            _migrate()
            _greet()
            service()
    except (EmbeddedError, KeysError) as error:
        stop(str(error))


@contextmanager
def _database() -> Iterator[None]:
    if "DATABASE_URL" in os.environ:
        yield
        return
    if "MIGRATION_DATABASE_URL" in os.environ:
        raise EmbeddedError("DATABASE_URL: missing, although MIGRATION_DATABASE_URL is given")
    with embedded.running(LOCAL / "postgresql") as server:
        owner, app = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
        roles.make_roles(server.url(), owner, app)
        roles.make_database(server.url(), DATABASE)
        os.environ["MIGRATION_DATABASE_URL"] = server.url(roles.OWNER, owner, DATABASE)
        os.environ["DATABASE_URL"] = server.url(roles.APP, app, DATABASE)
        yield


def _keys() -> None:
    if "KEYS_DIR" in os.environ:
        return
    directory = LOCAL / "keys"
    if not directory.is_dir() or not any(not f.name.startswith(".") for f in directory.iterdir()):
        keys.create(directory, time.time())
    os.environ["KEYS_DIR"] = str(directory)


def _migrate() -> None:
    """In a process of its own: the one that serves never holds the owner's password."""
    url = os.environ.pop("MIGRATION_DATABASE_URL", None)
    if url is None:
        return
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "handlers.runtime", "migrate"],
        env={**os.environ, "MIGRATION_DATABASE_URL": url},
        stdout=subprocess.DEVNULL,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.returncode)


def _greet() -> None:
    host, port = os.environ.get("HOST") or "127.0.0.1", os.environ.get("PORT") or "8080"
    base = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    print(f"""
  Swagger UI   {base}/ui
  First call   curl -X POST {base}/auth/guest
  Stop         Ctrl-C
""", flush=True)
