"""The row-level security policies alone: SQL as the serving role, without the service."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from psycopg import errors

from db import ids
from tests.platform.fix_postgres import Database, Postgres
from tests.platform.fix_service import Service, Tenant

ACME, RIVAL, NEW = ids.new(), ids.new(), ids.new()
TENANT_COLUMNS = {"organizations": "id", "memberships": "org_id", "projects": "org_id"}
INSERTS = {
    "organizations": "insert into organizations (id, name) values (%s, 'N')",
    "memberships": "insert into memberships values (%s, 'guest-0009', 'owner')",
    "projects": "insert into projects (org_id, id, name) values (%s, gen_random_uuid(), 'N')",
}
# Privileges that the serving role does not have are granted, so that only the policy restricts it.
GRANT_ALL = "grant select, insert, update, delete on all tables in schema public to covenant_app"


@pytest.fixture(scope="module")
def tables(postgres: Postgres) -> Database:
    """Two tenants with a row in every table; no tenant has the id `NEW`."""
    database = postgres.database()
    with psycopg.connect(database.superuser_url, autocommit=True) as superuser:
        superuser.execute(GRANT_ALL)
        for org, subject in ((ACME, "guest-0001"), (RIVAL, "guest-0002")):
            superuser.execute(INSERTS["organizations"], (org,))
            superuser.execute("insert into memberships values (%s, %s, 'owner')", (org, subject))
            superuser.execute(INSERTS["projects"], (org,))
    return database


@pytest.fixture
def app(tables: Database) -> Iterator[psycopg.Connection[Any]]:
    """A new connection of the serving role that is rolled back."""
    with psycopg.connect(tables.app_url) as connection:
        yield connection
        connection.rollback()


def bind(connection: psycopg.Connection[Any], **settings: str) -> None:
    for name, value in settings.items():
        connection.execute("select set_config(%s, %s, true)", (f"app.{name}", value))


def never_set(connection: psycopg.Connection[Any]) -> None:
    row = connection.execute("select current_setting('app.org_id', true)").fetchone()
    assert row == (None,)


def reset_to_empty(connection: psycopg.Connection[Any]) -> None:
    """Leave the settings as they are on every connection after its first request."""
    bind(connection, org_id=ACME, subject="guest-0001")
    connection.commit()
    row = connection.execute("select current_setting('app.org_id', true)").fetchone()
    assert row == ("",)


def bound_to_another_tenant(connection: psycopg.Connection[Any]) -> None:
    bind(connection, org_id=RIVAL)


@pytest.mark.parametrize("state", [never_set, reset_to_empty, bound_to_another_tenant])
@pytest.mark.parametrize("table", TENANT_COLUMNS)
class TestWithoutTheTenant:
    def test_its_rows_are_not_selected(self, app: Any, table: str, state: Any) -> None:
        state(app)
        assert (
            app.execute(f"select from {table} where {TENANT_COLUMNS[table]} = %s", (ACME,)).rowcount
            == 0
        )
        expected = 1 if state is bound_to_another_tenant else 0
        assert app.execute(f"select from {table}").rowcount == expected

    def test_its_rows_are_not_inserted(self, app: Any, table: str, state: Any) -> None:
        state(app)
        with pytest.raises(errors.InsufficientPrivilege, match="row-level security"):
            app.execute(INSERTS[table], (NEW if table == "organizations" else ACME,))

    def test_its_rows_are_not_updated(self, app: Any, table: str, state: Any) -> None:
        state(app)
        key = TENANT_COLUMNS[table]
        assert (
            app.execute(f"update {table} set {key} = {key} where {key} = %s", (ACME,)).rowcount == 0
        )

    def test_its_rows_are_not_deleted(self, app: Any, table: str, state: Any) -> None:
        state(app)
        assert (
            app.execute(f"delete from {table} where {TENANT_COLUMNS[table]} = %s", (ACME,)).rowcount
            == 0
        )

    def test_no_row_is_moved_to_it(self, app: Any, table: str, state: Any) -> None:
        state(app)
        update = f"update {table} set {TENANT_COLUMNS[table]} = %s"
        if state is bound_to_another_tenant:
            with pytest.raises(errors.InsufficientPrivilege, match="row-level security"):
                app.execute(update, (NEW,))
        else:
            assert app.execute(update, (NEW,)).rowcount == 0


@pytest.mark.parametrize("table", TENANT_COLUMNS)
def test_a_tenant_accesses_its_own_rows_only(app: Any, table: str) -> None:
    bind(app, org_id=ACME)
    assert app.execute(f"select {TENANT_COLUMNS[table]}::text from {table}").fetchall() == [(ACME,)]
    assert (
        app.execute(
            f"update {table} set {TENANT_COLUMNS[table]} = {TENANT_COLUMNS[table]}"
        ).rowcount
        == 1
    )
    assert app.execute(f"delete from {table}").rowcount == 1


def test_a_setting_that_is_not_a_uuid_is_an_error(app: Any) -> None:
    bind(app, org_id="x")
    with pytest.raises(errors.InvalidTextRepresentation):
        app.execute("select from projects")


def test_a_subject_reads_its_organizations_but_not_their_rows(app: Any) -> None:
    bind(app, subject="guest-0001")
    assert app.execute("select id::text from organizations").fetchall() == [(ACME,)]
    assert app.execute("select org_id::text from memberships").fetchall() == [(ACME,)]
    assert app.execute("select from projects").rowcount == 0
    for table in ("organizations", "memberships"):
        assert app.execute(f"update {table} set created_at = now()").rowcount == 0
    assert app.execute("delete from memberships").rowcount == 0
    with pytest.raises(errors.InsufficientPrivilege):
        app.execute("insert into memberships values (%s, 'guest-0001', 'owner')", (RIVAL,))


def test_an_owner_deletes_its_organization_with_all_its_rows_and_no_other(
    app: Any, tables: Database
) -> None:
    bind(app, subject="guest-0001")
    assert app.execute("delete from organizations").rowcount == 1
    bind(app, subject="", org_id=ACME)
    for table in TENANT_COLUMNS:
        assert app.execute(f"select from {table}").rowcount == 0
    bind(app, org_id=RIVAL)
    for table in TENANT_COLUMNS:
        assert app.execute(f"select from {table}").rowcount == 1


def test_a_member_who_is_not_an_owner_deletes_nothing(app: Any, tables: Database) -> None:
    with psycopg.connect(tables.superuser_url, autocommit=True) as superuser:
        superuser.execute("alter table memberships drop constraint memberships_role_check")
        superuser.execute("insert into memberships values (%s, 'guest-0003', 'viewer')", (ACME,))
    try:
        bind(app, subject="guest-0003")
        assert app.execute("select from organizations").rowcount == 1
        assert app.execute("delete from organizations").rowcount == 0
    finally:
        app.rollback()
        with psycopg.connect(tables.superuser_url, autocommit=True) as superuser:
            superuser.execute("delete from memberships where role = 'viewer'")


def test_the_policies_apply_to_the_table_owner_too(tables: Database) -> None:
    with psycopg.connect(tables.owner_url) as owner:
        for table in TENANT_COLUMNS:
            assert owner.execute(f"select from {table}").rowcount == 0
        bind(owner, org_id=ACME)
        assert owner.execute("select from projects").rowcount == 1
        owner.rollback()


def test_row_security_cannot_be_disabled(app: Any) -> None:
    app.execute("set local row_security = off")
    with pytest.raises(errors.InsufficientPrivilege):
        app.execute("select from projects")


@pytest.mark.parametrize(
    "statement",
    [
        "create temporary table projects (id uuid)",
        "create table public.mine (id uuid)",
        "create schema mine",
        "truncate projects",
        "alter table projects disable row level security",
        "set role covenant_owner",
        "create policy mine on projects using (true)",
        "create function public.f() returns int language sql as 'select 1'",
        "update alembic_version set version_num = '9999'",
        "select setval('guest_number', 1)",
        "copy projects from stdin",
    ],
)
def test_the_serving_role_can_change_only_rows(database: Database, statement: str) -> None:
    with psycopg.connect(database.app_url) as app:
        with pytest.raises((errors.InsufficientPrivilege, errors.FeatureNotSupported)):
            app.execute(statement)
        app.rollback()


@pytest.mark.parametrize(
    "statement",
    [
        "select from used_org_ids",
        "delete from used_org_ids",
        "update projects set name = 'x'",
        "update organizations set name = 'x'",
        "update memberships set role = 'owner'",
        "delete from memberships",
    ],
)
def test_the_serving_role_has_only_the_privileges_that_operations_need(
    database: Database, statement: str
) -> None:
    with psycopg.connect(database.app_url) as app:
        with pytest.raises(errors.InsufficientPrivilege, match="permission denied"):
            app.execute(statement)
        app.rollback()


def test_a_row_of_another_tenant_and_an_absent_row_raise_the_same_error(
    app: Any, tables: Database
) -> None:
    """No statement reveals whether a row of another tenant exists."""
    bind(app, org_id=RIVAL)
    messages = []
    for org in (ACME, NEW):
        with pytest.raises(errors.InsufficientPrivilege) as error, app.transaction():
            app.execute(INSERTS["projects"], (org,))
        messages.append(str(error.value))
    assert messages[0] == messages[1]
    for lock in ("for update", "for share"):
        query = f"select from projects where org_id = %s {lock}"
        assert app.execute(query, (ACME,)).rowcount == 0


def test_the_tenant_predicate_uses_an_index(database: Database) -> None:
    with psycopg.connect(database.app_url) as app:
        bind(app, org_id=ACME)
        app.execute("set local enable_seqscan = off")
        plan = app.execute(
            "explain select from projects where org_id = %s and id = %s", (ACME, NEW)
        ).fetchall()
        text = "\n".join(line for (line,) in plan)
        assert "Index" in text
        assert "InitPlan" in text
        app.rollback()


def test_concurrent_first_organizations_get_different_ids(service: Service) -> None:
    for attempt in range(5):
        with service.http() as http:
            signed_in = http.post("/auth/guest").json()
            bearer = {"Authorization": f"Bearer {signed_in['access_token']}"}
            with ThreadPoolExecutor(4) as pool:
                responses = list(
                    pool.map(
                        lambda n: http.post("/orgs", json={"name": f"N{n}"}, headers=bearer),  # noqa: B023
                        range(4),
                    )
                )
            assert [response.status_code for response in responses] == [201] * 4, attempt
            created = [response.json()["id"] for response in responses]
            assert len(set(created)) == 4
            assert created.count(signed_in["org_id"]) == 1
            listed = http.get("/orgs", headers=bearer).json()["items"]
            assert sorted(org["id"] for org in listed) == sorted(created)


def test_an_organization_id_is_never_reused(
    service: Service, acme: Tenant, database: Database
) -> None:
    assert acme.http.delete(f"/orgs/{acme.org}").status_code == 204
    with psycopg.connect(database.superuser_url) as superuser:
        used = superuser.execute("select from used_org_ids where org_id = %s", (acme.org,))
        assert used.rowcount == 1
    again = acme.post("/orgs", name="Again")["id"]
    assert acme.post("/orgs", name="And again")["id"] not in (acme.org, again)
    assert acme.get(f"/orgs/{acme.org}").status_code == 404


def test_concurrent_guests_get_different_numbers(service: Service) -> None:
    with service.http() as http, ThreadPoolExecutor(10) as pool:
        guests = list(pool.map(lambda _: http.post("/auth/guest").json(), range(20)))
    assert len({guest["subject"] for guest in guests}) == 20
    assert len({guest["org_id"] for guest in guests}) == 20
