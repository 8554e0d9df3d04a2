"""The tests leave a PostgreSQL server that they are given (TEST_DATABASE_URL) unchanged."""

import secrets
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest

from db import roles
from tests.platform import fix_postgres
from tests.platform.fix_postgres import Postgres

PASSWORD = "p@ss/w:rd? %"


def databases(postgres: Postgres) -> set[str]:
    with psycopg.connect(postgres.superuser_url) as superuser:
        return {row[0] for row in superuser.execute("select datname from pg_database")}


def test_a_given_server_keeps_its_databases_and_its_passwords(
    postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    existing = postgres.database(migrated=False)
    before = databases(postgres)
    with psycopg.connect(postgres.superuser_url, autocommit=True) as superuser:
        name = f"covenant_test_{secrets.token_hex(4)}"
        superuser.execute(f"create role {name} superuser login password '{PASSWORD}'")
    superuser_url = postgres.url("postgres", name, PASSWORD)
    assert quote(PASSWORD, safe="") in superuser_url
    monkeypatch.setenv("TEST_DATABASE_URL", superuser_url)
    try:
        with fix_postgres.server(tmp_path) as (kind, url):
            roles.create_roles(url, "another", "another")
            created = Postgres(kind, url, "another", "another").database(migrated=False)
            with psycopg.connect(created.owner_url):
                assert databases(postgres) == before | {created.name}
    finally:
        with psycopg.connect(postgres.superuser_url, autocommit=True) as superuser:
            superuser.execute(f"drop role {name}")
    assert databases(postgres) == before
    with psycopg.connect(existing.owner_url), psycopg.connect(existing.app_url):
        pass
