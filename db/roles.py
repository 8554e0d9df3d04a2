"""The owner, the serving role and a database, made by a superuser: on one machine and in tests."""

import psycopg
from psycopg import sql

OWNER = "covenant_owner"
APP = "covenant_app"


def make_roles(superuser_url: str, owner_password: str, app_password: str) -> None:
    """Make the two roles where they are missing, and give them these passwords."""
    with psycopg.connect(superuser_url, autocommit=True) as connection:
        for role, rights, password in (
            (OWNER, "createrole", owner_password),
            (APP, "nocreaterole", app_password),
        ):
            if not _exists(connection, "pg_roles", "rolname", role):
                connection.execute(sql.SQL("create role {}").format(sql.Identifier(role)))
            connection.execute(
                sql.SQL("alter role {} nosuperuser nobypassrls login {} password {}").format(
                    sql.Identifier(role), sql.SQL(rights), sql.Literal(password)
                )
            )


def make_database(superuser_url: str, name: str) -> None:
    """Make the database, the owner's own, where it is missing."""
    with psycopg.connect(superuser_url, autocommit=True) as connection:
        if not _exists(connection, "pg_database", "datname", name):
            connection.execute(
                sql.SQL("create database {} owner {}").format(
                    sql.Identifier(name), sql.Identifier(OWNER)
                )
            )


def _exists(
    connection: "psycopg.Connection[tuple[object, ...]]", table: str, column: str, name: str
) -> bool:
    query = sql.SQL("select 1 from {} where {} = %s").format(
        sql.Identifier(table), sql.Identifier(column)
    )
    return connection.execute(query, (name,)).fetchone() is not None
