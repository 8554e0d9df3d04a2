"""The migrations: they build what the contract declares, and can be undone and repeated."""

import psycopg

from db import migrate, revisions
from dev.planner import planning
from evidence.certificate import catalogue
from openapi import contract
from tests.platform.fix_postgres import Database, Postgres
from tests.platform.test_migrations import full_snapshot


def test_the_tables_are_those_of_the_contract(database: Database) -> None:
    assert planning.plan(contract.load(), database.owner_url).changes == ()


def test_every_table_has_its_policies_and_exactly_the_grants_it_needs(database: Database) -> None:
    privileges = catalogue.required_privileges(contract.load())
    with psycopg.connect(database.superuser_url) as superuser:
        assert catalogue.issues(superuser, privileges) == set()


def test_migrations_can_be_undone_and_repeated(postgres: Postgres) -> None:
    database = postgres.database()
    newest = full_snapshot(database.superuser_url)
    migrate.downgrade(database.owner_url, "base")
    with psycopg.connect(database.superuser_url) as superuser:
        rows = superuser.execute(
            "select tablename from pg_tables where schemaname = 'public'"
        ).fetchall()
    assert rows == [("alembic_version",)]
    migrate.upgrade(database.owner_url)
    assert full_snapshot(database.superuser_url) == newest
    assert revisions.is_up_to_date(database.owner_url)
