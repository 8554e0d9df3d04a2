"""The layers beneath the operations: catalogue, settings, door and pooled connections."""

import asyncio
import json
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import psycopg
from psycopg import sql

from db import tenancy
from db.connections.database import Database
from evidence.certificate import catalogue, row_snapshots
from evidence.certificate.identities import World, call
from evidence.certificate.results import Check
from evidence.certificate.row_snapshots import Table
from openapi.contract import Contract

ALTERNATIONS = 200
SETTINGS = ("app.org_id", "app.subject")
ABSENT = "00000000-0000-7000-8000-000000000000"
Connection = psycopg.Connection[Any]


def catalogue_rule(contract: Contract, superuser: Connection) -> Check:
    """Hold the whole catalogue against its rules, and the grants against the operations."""
    found = sorted(catalogue.faults(superuser, catalogue.needed(contract)))
    return Check(
        "catalogue",
        "every table is enabled and forced, under the expected policies and grants, and nothing"
        " leads around them",
        f"{len(catalogue.needed(contract))} objects with just the privileges that operations need",
        tuple(found),
    )


def settings_rules(
    app_url: str, superuser: Connection, world: World, tables: list[Table]
) -> Iterator[Check]:
    """Try every statement in every state of the settings: none may reach the victim's rows."""
    states = {"never set": None, "empty": "", "of another": ABSENT}
    rows = {table: _rows(superuser, table, world.victim.orgs) for table in tables}
    for state, value in states.items():
        faults: list[str] = []
        tried = 0
        with psycopg.connect(app_url, autocommit=True, prepare_threshold=None) as app:
            for table, command in product(tables, ("select", "insert", "update", "delete")):
                tried += 1
                try:
                    said = _try(app, table, command, value, rows[table])
                except psycopg.Error as error:
                    said = _unexpected(error)
                if said:
                    faults.append(f"setting {state}: {command} on {table.name}: {said}")
        yield Check(
            "settings",
            f"the settings {state}: no row is seen, changed or inserted",
            f"{tried} statements on {len(tables)} tables that hold the victim's rows",
            tuple(faults),
        )


def _rows(superuser: Connection, table: Table, orgs: list[str]) -> list[str]:
    query = sql.SQL("select row_to_json(_row)::text from {} _row where _row.{} = any (%s::uuid[])")
    return [
        r
        for (r,) in superuser.execute(
            query.format(table.sql, sql.Identifier(table.tenant)), (orgs,)
        )
    ]


def _try(app: Connection, table: Table, command: str, value: str | None, rows: list[str]) -> str:
    if not rows:
        return "the victim has no row in it: nothing was tried"
    statement: tuple[sql.Composed, tuple[str, ...]] = {
        "select": (sql.SQL("select * from {}").format(table.sql), ()),
        "update": (
            sql.SQL("update {} set {} = {}").format(
                table.sql, sql.Identifier(table.tenant), sql.Identifier(table.tenant)
            ),
            (),
        ),
        "delete": (sql.SQL("delete from {}").format(table.sql), ()),
        "insert": (row_snapshots.INSERT.format(table.sql), (rows[0],)),
    }[command]
    with app.transaction(force_rollback=True):
        if value is not None:
            for setting in SETTINGS:
                app.execute("select set_config(%s, %s, true)", (setting, value))
        done = app.execute(*statement)
        if command == "insert":
            return "was accepted"
        return f"reached {done.rowcount} rows" if done.rowcount else ""


def _unexpected(error: psycopg.Error) -> str:
    """42501 is right for what is not granted, and for an insert that a policy refuses.

    That just the right privileges are granted is the catalogue's rule.
    """
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return ""
    return f"{error.sqlstate} {str(error).splitlines()[0]}"


def alternation_rule(app_url: str, world: World, tables: list[Table], pooled: bool) -> Check:
    """Two tenants in turn on one connection: each sees its own rows, nobody sees any."""
    tenants = [world.victim, world.actors["other"]]
    faults: list[str] = []
    # Prepared from the first execution on, a plan that kept a tenant would show it.
    threshold = None if pooled else 1
    with psycopg.connect(app_url, autocommit=True, prepare_threshold=threshold) as app:
        tables = [table for table in tables if _may_read(app, table)]
        for n in range(ALTERNATIONS):
            tenant = tenants[n % 2]
            with app.transaction():
                app.execute("select set_config('app.org_id', %s, true)", (tenant.orgs[0],))
                for table in tables:
                    seen = _tenants(app, table)
                    if seen != {tenant.orgs[0]}:
                        faults.append(
                            f"turn {n}: {tenant.name} saw {table.name} of {seen or 'nobody'}"
                        )
            for table in tables:
                if seen := _tenants(app, table):
                    faults.append(f"after turn {n}: with nothing bound {table.name} of {seen}")
            if faults:
                break
    how = "through PgBouncer" if pooled else "prepared at once"
    return Check(
        "alternation",
        "two tenants in turn on one connection see only their own rows",
        f"{ALTERNATIONS} turns on {len(tables)} tables, {how}",
        tuple(faults[:5]),
    )


def _may_read(app: Connection, table: Table) -> bool:
    name = table.sql.as_string(app)
    row = app.execute("select has_table_privilege(%s, 'select')", (name,)).fetchone()
    return bool(row and row[0])


def _tenants(app: Connection, table: Table) -> set[str]:
    query = sql.SQL("select distinct {}::text from {}").format(
        sql.Identifier(table.tenant), table.sql
    )
    return {org for (org,) in app.execute(query)}


def service_alternation_rule(world: World) -> Check:
    """Two tenants in turn through the service, which has one connection of each kind."""
    faults: list[str] = []
    reads = [o for o in world.contract.operations.values() if o.method == "get" and o.security]
    tenants = [world.victim, world.actors["other"]]
    turns = max(1, ALTERNATIONS // max(1, len(reads)))
    for n in range(turns):
        mine, theirs = tenants[n % 2], tenants[(n + 1) % 2]
        for operation in reads:
            answer = call(world.client, operation, mine)
            said = answer.body.decode(errors="replace")
            if answer.status != 200:
                faults.append(f"turn {n}: {operation.id} answered {answer.status} to {mine.name}")
            elif any(marker in said for marker in theirs.markers):
                faults.append(
                    f"turn {n}: {operation.id} showed {mine.name} what is {theirs.name}'s"
                )
    return Check(
        "alternation",
        "two tenants in turn over the service's one connection get only their own",
        f"{turns * len(reads)} answers of {len(reads)} operations",
        tuple(faults[:5]),
    )


def door_rule(app_url: str, world: World) -> Check:
    """Use the service's own door to the database, and look at what it leaves on the connection."""
    found, looks = asyncio.run(_door(app_url, world))
    return Check(
        "door",
        "what the door binds ends with its transaction, and reads are read-only",
        f"{looks} looks at the settings of a used connection",
        tuple(found),
    )


async def _door(app_url: str, world: World) -> tuple[list[str], int]:
    faults: list[str] = []
    database = Database(app_url, refuse=faults.append, connections=1)
    await database.open()
    look = (
        "select coalesce(current_setting($1, true), ''), current_setting('transaction_read_only')"
    )
    looks = 0
    try:
        org, subject = world.victim.orgs[0], world.victim.subject
        doors: dict[str, Callable[[bool], tenancy.Session]] = {
            "as_tenant": lambda only: tenancy.tenant_session(database, org, read_only=only),
            "as_subject": lambda only: tenancy.subject_session(database, subject, read_only=only),
        }
        for (name, door), read_only in product(doors.items(), (True, False)):
            nobody = tenancy.Session(database, {}, read_only)
            used = door(read_only)
            rows = await used.fetch(look, SETTINGS[0])
            if (rows[0][1] == b"on") != read_only:
                faults.append(f"{name}: read_only={read_only} is not kept")
            async with used.transaction(org_id=org) as tx:
                await tx.run("select 1")
            for setting in SETTINGS:
                left = {(await nobody.fetch(look, setting))[0][0]}
                async with nobody.transaction(nothing="") as tx:
                    left |= {(await tx.fetch(look, setting))[0][0]}
                looks += 2
                if left - {b""}:
                    faults.append(f"{name}: leaves {setting} bound on the connection")
    finally:
        await database.close()
    return faults, looks


def leftover_rule(pooled_url: str) -> Check:
    """Look, as the next client of the pool of one, at what the service left on its connection."""
    faults = []
    with psycopg.connect(pooled_url, autocommit=True, prepare_threshold=None) as other:
        for setting in SETTINGS:
            row = other.execute("select current_setting(%s, true)", (setting,)).fetchone()
            if row and row[0]:
                faults.append(f"{setting} stayed bound behind PgBouncer")
        for name, right in (("statement_timeout", "0"), ("default_transaction_read_only", "off")):
            row = other.execute("select current_setting(%s)", (name,)).fetchone()
            if row != (right,):
                faults.append(f"{name} stayed {json.dumps(row)} behind PgBouncer")
    return Check(
        "pooler",
        "nothing stays bound on the one server connection",
        "looked at as its next client",
        tuple(faults),
    )
