"""Creates the owner role, the serving role and a database, as a superuser.

For a local machine and for tests; in production the database administrator does this.
"""

import psycopg
from psycopg import sql

OWNER = "covenant_owner"
APP = "covenant_app"


def create_roles(superuser_url: str, owner_password: str, app_password: str) -> None:
    """Create the two roles if they are missing, and set their passwords.

    Raises `psycopg.Error`.
    """
    with psycopg.connect(superuser_url, autocommit=True) as connection:
        for role, privilege, password in (
            (OWNER, "createrole", owner_password),
            (APP, "nocreaterole", app_password),
        ):
            if not _exists(connection, "pg_roles", "rolname", role):
                connection.execute(sql.SQL("create role {}").format(sql.Identifier(role)))
            connection.execute(
                sql.SQL("alter role {} nosuperuser nobypassrls login {} password {}").format(
                    sql.Identifier(role), sql.SQL(privilege), sql.Literal(password)
                )
            )


def create_database(superuser_url: str, name: str) -> None:
    """Create the database, owned by the owner role, if it is missing. Raises `psycopg.Error`."""
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
