"""Errors of the database: what they mean to a handler, and what a client gets."""

from collections.abc import Iterator

import psycopg
import pytest

from db.errors import (
    BrokenReference,
    Conflict,
    DbError,
    InvalidValue,
    NotFound,
    Unavailable,
    from_postgres,
    is_connection_lost,
)
from tests.platform.fix_database import ORG_ID
from tests.platform.fix_logs import wait_for_event
from tests.platform.fix_postgres import Database
from tests.platform.fix_service import Service, serving, tenant

INSERT_PROJECT = "insert into projects (org_id, id, name) values ({}, gen_random_uuid(), 'N')"
INSERT_ORGS = "insert into organizations (id, name) values "
# Serves projects with handlers that are wrong.
BROKEN_HANDLERS = """
import sys
from types import SimpleNamespace
from service import serve

INSERT = "insert into projects values ($1, gen_random_uuid(), 'x')"

async def writes_in_get(org_id, project_id, tenant):
    await tenant.fetch(INSERT, org_id)

async def writes_in_list(org_id, tenant, limit, cursor=None):
    async with tenant.transaction() as tx:
        await tx.run(INSERT, org_id)

async def has_no_grant(org_id, project_id, tenant):
    await tenant.fetch("update projects set name = 'x' where org_id = $1", org_id)

async def is_slow(org_id, body, tenant):
    async with tenant.transaction() as tx:
        await tx.fetch("select pg_sleep(20)")

sys.modules["handlers.projects"] = SimpleNamespace(
    get=writes_in_get, list_=writes_in_list, delete=has_no_grant, create=is_slow
)
serve.serve()
"""


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        (INSERT_PROJECT.format("gen_random_uuid()"), NotFound),
        (INSERT_PROJECT.format(f"'{ORG_ID}'"), BrokenReference),
        ("update projects set name = 'x'", None),
        ("select from used_org_ids", None),
        ("select 1/0", InvalidValue),
        (INSERT_ORGS + f"('{ORG_ID}', null)", InvalidValue),
        ("select no_such_column from projects", None),
        (INSERT_ORGS + f"('{ORG_ID}', 'N'), ('{ORG_ID}', 'N')", Conflict),
    ],
)
def test_an_error_of_a_statement_has_a_meaning_or_is_a_bug(
    database: Database, sql: str, expected: type[DbError] | None
) -> None:
    """A policy violation and a missing grant share SQLSTATE 42501; only the former is NotFound."""
    with psycopg.connect(database.app_url) as app:
        app.execute("select set_config('app.org_id', %s, true)", (ORG_ID,))
        with pytest.raises(psycopg.Error) as error:
            app.execute(sql.encode())
    translated = from_postgres(error.value)
    assert (type(translated) if translated else None) is expected


@pytest.mark.parametrize(
    ("state", "label"),
    [
        ("57014", "too_slow"),
        ("53100", "disk_full"),
        ("55P03", "LockNotAvailable"),
        ("40001", "SerializationFailure"),
        ("40P01", "DeadlockDetected"),
        ("53200", "OutOfMemory"),
        ("53300", "TooManyConnections"),
        ("57P01", "database_away"),
        ("57P03", "database_away"),
        ("08006", "database_away"),
        ("25P03", "IdleInTransactionSessionTimeout"),
    ],
)
def test_an_error_that_a_retry_may_avoid_is_unavailable(state: str, label: str) -> None:
    error = from_postgres(psycopg.errors.lookup(state)())
    assert isinstance(error, Unavailable)
    assert error.label == label


def test_a_connection_that_a_pooler_closes_is_lost_and_a_corrupt_table_is_not() -> None:
    closed = psycopg.InternalError("received 2 results from command 'COMMIT'")
    error = from_postgres(closed)
    assert isinstance(error, Unavailable)
    assert error.connection_lost
    assert error.label == "database_away"
    assert is_connection_lost(closed)
    assert not is_connection_lost(psycopg.errors.lookup("XX001")())


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory, database: Database) -> Iterator[Service]:
    """A service with `BROKEN_HANDLERS`."""
    folder = tmp_path_factory.mktemp("broken")
    with serving(
        folder,
        database.app_url,
        command=("-c", BROKEN_HANDLERS),
        DATABASE_CONNECTIONS="1",
        VALIDATE_RESPONSES="0",
    ) as running:
        yield running


@pytest.mark.parametrize("path", ["", f"/{ORG_ID}"], ids=["transaction", "statement"])
def test_a_handler_of_a_get_cannot_write(broken: Service, database: Database, path: str) -> None:
    with tenant(broken, "Acme") as acme:
        assert acme.get(f"/orgs/{acme.org}/projects{path}").status_code == 500
        with psycopg.connect(database.superuser_url) as superuser:
            query = "select from projects where org_id = %s"
            assert superuser.execute(query, (acme.org,)).rowcount == 0


def test_a_missing_grant_is_an_internal_error_that_only_the_log_explains(broken: Service) -> None:
    with tenant(broken, "Acme") as acme:
        response = acme.http.delete(f"/orgs/{acme.org}/projects/{acme.org}")
    assert response.status_code == 500
    assert "permission" not in response.text
    request_id = response.json()["request_id"]
    line = wait_for_event(broken, "request_failed", request_id=request_id)
    assert "permission denied for table projects" in str(line["exception"])


def test_a_statement_timeout_frees_the_only_connection(broken: Service) -> None:
    with tenant(broken, "Acme") as acme:
        response = acme.http.post(f"/orgs/{acme.org}/projects", json={"name": "N"})
        assert (response.status_code, response.json()["code"]) == (503, "statement-timeout")
        assert response.elapsed.total_seconds() < 6
        assert "retry-after" in response.headers
        assert acme.post("/orgs", name="Next")
