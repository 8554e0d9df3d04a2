"""The PostgreSQL server of the tests: TEST_DATABASE_URL, a container, or the embedded one."""

import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import psycopg
import pytest

from db import migrate, roles
from dev.local import embedded
from evidence.harness.postgres import passwords_restored, urls

IMAGE = "postgres:17"


@dataclass(frozen=True)
class Postgres:
    """A server where tests may create databases and roles; `kind` says which one it is."""

    kind: str
    superuser_url: str
    owner_password: str
    app_password: str

    def url(self, database: str, user: str | None = None, password: str | None = None) -> str:
        """Return the URL of a database for `user`, by default the superuser."""
        return urls(self.superuser_url, database)(user, password)

    def database(self, *, migrated: bool = True, template: str | None = None) -> "Database":
        """Create a database: at the newest revision, empty, or a copy of `template`."""
        name = f"covenant_test_{secrets.token_hex(4)}"
        if template:
            with psycopg.connect(self.superuser_url, autocommit=True) as superuser:
                superuser.execute(f"create database {name} owner {roles.OWNER} template {template}")
        else:
            roles.create_database(self.superuser_url, name)
        database = Database(
            name,
            superuser_url=self.url(name),
            owner_url=self.url(name, roles.OWNER, self.owner_password),
            app_url=self.url(name, roles.APP, self.app_password),
        )
        if migrated and not template:
            migrate.upgrade(database.owner_url)
        return database


@dataclass(frozen=True)
class Database:
    """One database, with a URL for each of the three roles that connect to it."""

    name: str
    superuser_url: str
    owner_url: str
    app_url: str


def count_blocked(superuser: psycopg.Connection[Any]) -> int:
    """Return how many statements wait for a lock, also within a transaction of `superuser`.

    Unlike pg_stat_activity, pg_locks is read again by each statement of a transaction.
    """
    return superuser.execute("select from pg_locks where not granted").rowcount


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    with server(tmp_path_factory.mktemp("postgresql")) as (kind, url):
        owner, app = secrets.token_hex(16), secrets.token_hex(16)
        roles.create_roles(url, owner, app)
        yield Postgres(kind, url, owner, app)


@pytest.fixture(scope="session")
def database(postgres: Postgres) -> Database:
    """The database that tests share; each test creates its own tenants."""
    return postgres.database()


@pytest.fixture(scope="session")
def template_database(postgres: Postgres) -> Database:
    """A database that is only ever copied."""
    return postgres.database()


@pytest.fixture
def database_copy(postgres: Postgres, template_database: Database) -> Iterator[Database]:
    """A migrated database that the test may change in any way."""
    database = postgres.database(template=template_database.name)
    yield database
    with psycopg.connect(postgres.superuser_url, autocommit=True) as superuser:
        superuser.execute(f"drop database {database.name} (force)")


@pytest.fixture
def superuser(database: Database) -> Iterator[psycopg.Connection[Any]]:
    """A connection to the shared database that sees every row."""
    with psycopg.connect(database.superuser_url, autocommit=True) as connection:
        yield connection


def pytest_report_header() -> str:
    return f"PostgreSQL: {_kind()}"


def _kind() -> str:
    if os.environ.get("TEST_DATABASE_URL"):
        return "TEST_DATABASE_URL"
    if os.environ.get("TESTCONTAINERS"):
        return f"container {IMAGE}"
    if os.environ.get("CI") and _can_start_container():
        return f"container {IMAGE}"
    return f"embedded {embedded.MAJOR_VERSION}"


@contextmanager
def server(directory: Path) -> Iterator[tuple[str, str]]:
    """Yield the kind of the server and its superuser URL; `directory` is for the embedded one."""
    kind = _kind()
    if kind.startswith("container"):
        from testcontainers.community.postgres import PostgresContainer
        from testcontainers.core.config import testcontainers_config

        # Ryuk, its reaper, would be another image to pull; `with` stops the container.
        testcontainers_config.ryuk_disabled = True

        with PostgresContainer(IMAGE, driver=None) as container:
            yield kind, container.get_connection_url()
    elif kind.startswith("embedded"):
        with embedded.running(directory, fsync=False) as server:
            yield kind, server.url()
    else:
        url = os.environ["TEST_DATABASE_URL"]
        with passwords_restored(url), _databases_dropped(url):
            yield kind, url


@contextmanager
def _databases_dropped(superuser_url: str) -> Iterator[None]:
    """Drop at the end the databases that the tests, or processes they killed, left behind."""
    query = (
        r"select datname from pg_database where datname ~ '^(covenant_test|certify)_[0-9a-f]{8}'"
    )
    with psycopg.connect(superuser_url, autocommit=True) as superuser:
        before = superuser.execute(query).fetchall()
    try:
        yield
    finally:
        with psycopg.connect(superuser_url, autocommit=True) as superuser:
            for row in superuser.execute(query).fetchall():
                if row not in before:
                    superuser.execute(f"drop database {row[0]} with (force)")


@cache
def _can_start_container() -> bool:
    import docker

    if not _is_docker_running():
        return False
    client = docker.from_env(timeout=20)
    try:
        try:
            client.images.get(IMAGE)
        except docker.errors.ImageNotFound:
            client.images.pull(IMAGE)
    except docker.errors.DockerException:
        return False
    finally:
        client.close()
    return True


def _is_docker_running() -> bool:
    """Connect to the socket directly: Docker's client leaks its socket when the daemon is down."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect("/var/run/docker.sock")
        except OSError:
            return False
    return True
