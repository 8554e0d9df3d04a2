"""A real PostgreSQL for every test: given, in a container, or embedded; never none."""

import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psycopg
import pytest

from db import migrate, roles
from dev.local import embedded
from evidence.harness.postgres import passwords_restored, urls

IMAGE = "postgres:17"


@dataclass(frozen=True)
class Postgres:
    """A server where tests may make databases and roles; `kind` says which it is."""

    kind: str
    superuser_url: str
    owner_password: str
    app_password: str

    def url(self, database: str, user: str | None = None, password: str | None = None) -> str:
        """The superuser's URL of a database, or that of `user`."""
        return urls(self.superuser_url, database)(user, password)

    def database(self, *, migrated: bool = True, template: str | None = None) -> "Database":
        """Make an empty database, by default at the newest revision, or a copy of `template`."""
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
    """One database, by the three who may sign in to it."""

    name: str
    superuser_url: str
    owner_url: str
    app_url: str


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    with server(tmp_path_factory.mktemp("postgresql")) as (kind, url):
        owner, app = secrets.token_hex(16), secrets.token_hex(16)
        roles.create_roles(url, owner, app)
        yield Postgres(kind, url, owner, app)


@pytest.fixture(scope="session")
def database(postgres: Postgres) -> Database:
    """The database that tests share; each makes its own tenants."""
    return postgres.database()


def pytest_report_header() -> str:
    return f"PostgreSQL: {_choice()}"


def _choice() -> str:
    if os.environ.get("TEST_DATABASE_URL"):
        return "TEST_DATABASE_URL"
    if os.environ.get("TESTCONTAINERS"):
        return f"container {IMAGE}"
    if os.environ.get("CI") and _container_is_possible():
        return f"container {IMAGE}"
    return f"embedded {embedded.MAJOR_VERSION}"


@contextmanager
def server(directory: Path) -> Iterator[tuple[str, str]]:
    choice = _choice()
    if choice.startswith("container"):
        from testcontainers.community.postgres import PostgresContainer
        from testcontainers.core.config import testcontainers_config

        # Its reaper is one more image; the block below ends the container.
        testcontainers_config.ryuk_disabled = True

        with PostgresContainer(IMAGE, driver=None) as container:
            yield choice, container.get_connection_url()
    elif choice.startswith("embedded"):
        with embedded.running(directory, fsync=False) as server:
            yield choice, server.url()
    else:
        url = os.environ["TEST_DATABASE_URL"]
        with passwords_restored(url), _databases_dropped(url):
            yield choice, url


@contextmanager
def _databases_dropped(superuser_url: str) -> Iterator[None]:
    """Drop at the end what the tests, and what they killed, made on a server that others use."""
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
def _container_is_possible() -> bool:
    import docker

    if not _engine_answers():
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


def _engine_answers() -> bool:
    """Ask the socket itself: Docker's client leaves its own open when nobody answers."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect("/var/run/docker.sock")
        except OSError:
            return False
    return True
