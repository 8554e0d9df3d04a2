"""Checks below HTTP: the catalogue, the settings that bind a tenant, and shared connections."""

from collections.abc import Iterator
from itertools import product
from typing import Any

import psycopg
from psycopg import sql

from evidence.certificate import catalogue
from evidence.certificate.actors import World, call
from evidence.certificate.results import Check
from evidence.certificate.row_snapshots import INSERT_ROW, TenantTable
from openapi.contract import Contract

TURNS = 200
MAX_ISSUES = 5
SETTINGS = ("app.org_id", "app.subject")
NONEXISTENT_ORG = "00000000-0000-7000-8000-000000000000"
COMMANDS = ("select", "insert", "update", "delete")
Connection = psycopg.Connection[Any]


def catalogue_check(contract: Contract, superuser: Connection) -> Check:
    """Check policies, keys and functions, and the privileges against the operations."""
    privileges = catalogue.required_privileges(contract)
    return Check(
        "catalogue",
        "every table has row-level security enabled and forced, with the expected policies and"
        " privileges, and nothing bypasses them",
        f"{len(privileges)} objects with exactly the privileges that the operations need",
        tuple(sorted(catalogue.issues(superuser, privileges))),
    )


def settings_checks(
    app_url: str, superuser: Connection, world: World, tables: list[TenantTable]
) -> Iterator[Check]:
    """Run every command in every state of the settings: none may reach the victim's rows."""
    states = {
        "no settings": None,
        "empty settings": "",
        "the settings of another organization": NONEXISTENT_ORG,
    }
    rows = {table: _rows(superuser, table, world.victim.orgs) for table in tables}
    for state, value in states.items():
        issues: list[str] = []
        with psycopg.connect(app_url, autocommit=True, prepare_threshold=None) as app:
            for table, command in product(tables, COMMANDS):
                if problem := _try_command(app, table, command, value, rows[table]):
                    issues.append(f"with {state}: {command} on {table.name}: {problem}")
        yield Check(
            "settings",
            f"with {state}, no row is visible and none can be written",
            f"{len(tables) * len(COMMANDS)} statements on {len(tables)} tables that contain rows"
            " of the victim",
            tuple(issues),
        )


def alternation_check(
    app_url: str, world: World, tables: list[TenantTable], *, is_pooled: bool
) -> Check:
    """Let two tenants take turns on one connection; each sees its own rows only."""
    tenants = [world.victim, world.rival]
    issues: list[str] = []
    # Statements prepared at their first execution would reveal a plan that keeps a tenant.
    threshold = None if is_pooled else 1
    with psycopg.connect(app_url, autocommit=True, prepare_threshold=threshold) as app:
        tables = [table for table in tables if _may_select(app, table)]
        for turn in range(TURNS):
            tenant = tenants[turn % 2]
            with app.transaction():
                app.execute("select set_config('app.org_id', %s, true)", (tenant.orgs[0],))
                for table in tables:
                    visible = _visible_orgs(app, table)
                    if visible != {tenant.orgs[0]}:
                        issues.append(
                            f"turn {turn}: the {tenant.name} saw rows in {table.name} of"
                            f" {', '.join(sorted(visible)) or 'no organization'}"
                        )
            for table in tables:
                if visible := _visible_orgs(app, table):
                    issues.append(
                        f"after turn {turn}: with nothing bound, {table.name} showed rows of"
                        f" {', '.join(sorted(visible))}"
                    )
            if issues:
                break
    method = "through PgBouncer" if is_pooled else "with prepared statements"
    return Check(
        "alternation",
        "two tenants taking turns on one connection see only their own rows",
        f"{TURNS} turns on {len(tables)} tables, {method}",
        tuple(issues[:MAX_ISSUES]),
    )


def service_alternation_check(world: World) -> Check:
    """Let two tenants take turns through the service, which has one connection of each kind."""
    issues: list[str] = []
    reads = [o for o in world.contract.operations.values() if o.method == "get" and o.security]
    turns = max(1, TURNS // max(1, len(reads)))
    tenants = [world.victim, world.rival]
    for turn, operation in product(range(turns), reads):
        tenant, other = tenants[turn % 2], tenants[(turn + 1) % 2]
        response = call(world.client, operation, tenant)
        if response.status != 200:
            issues.append(
                f"turn {turn}: {operation.id} responded {response.status} to the {tenant.name}"
            )
        elif any(marker in response.text for marker in other.markers):
            issues.append(
                f"turn {turn}: {operation.id} showed the {tenant.name} data of the {other.name}"
            )
    return Check(
        "alternation",
        "two tenants taking turns on the service's one connection get only their own data",
        f"{turns * len(reads)} responses of {len(reads)} operations",
        tuple(issues[:MAX_ISSUES]),
    )


def _rows(superuser: Connection, table: TenantTable, orgs: list[str]) -> list[str]:
    query = sql.SQL("select row_to_json(_row)::text from {} _row where _row.{} = any (%s::uuid[])")
    rows = superuser.execute(query.format(table.identifier, table.tenant), (orgs,))
    return [row for (row,) in rows]


def _try_command(
    app: Connection, table: TenantTable, command: str, value: str | None, rows: list[str]
) -> str:
    """Return how a command reached the victim's rows, or an empty string.

    SQLSTATE 42501 is correct: either the privilege is missing or the policy rejects the row. That
    exactly the right privileges are granted is verified by the catalogue check.
    """
    if not rows:
        return "nothing was tried, since the victim has no row in it"
    try:
        return _reached_rows(app, table, command, value, rows[0])
    except psycopg.errors.InsufficientPrivilege:
        return ""
    except psycopg.Error as error:
        return f"{error.sqlstate} {str(error).splitlines()[0]}"


def _reached_rows(
    app: Connection, table: TenantTable, command: str, value: str | None, row: str
) -> str:
    statements: dict[str, tuple[sql.Composed, tuple[str, ...]]] = {
        "select": (sql.SQL("select * from {}").format(table.identifier), ()),
        "insert": (INSERT_ROW.format(table.identifier), (row,)),
        "update": (
            sql.SQL("update {} set {} = {}").format(table.identifier, table.tenant, table.tenant),
            (),
        ),
        "delete": (sql.SQL("delete from {}").format(table.identifier), ()),
    }
    with app.transaction(force_rollback=True):
        if value is not None:
            for setting in SETTINGS:
                app.execute("select set_config(%s, %s, true)", (setting, value))
        cursor = app.execute(*statements[command])
        if command == "insert":
            return "was accepted"
        return f"reached {cursor.rowcount} rows" if cursor.rowcount else ""


def _may_select(app: Connection, table: TenantTable) -> bool:
    name = table.identifier.as_string(app)
    row = app.execute("select has_table_privilege(%s, 'select')", (name,)).fetchone()
    return bool(row and row[0])


def _visible_orgs(app: Connection, table: TenantTable) -> set[str]:
    query = sql.SQL("select distinct {}::text from {}").format(table.tenant, table.identifier)
    return {org for (org,) in app.execute(query)}
