"""Checks of what the service's database sessions leave on the connections they share."""

import asyncio
import json
from collections.abc import Callable
from itertools import product

import psycopg

from db import tenancy
from db.connections.database import Database
from evidence.certificate.actors import World
from evidence.certificate.checks import SETTINGS
from evidence.certificate.results import Check

# The setting $1, and whether the transaction is read-only.
_INSPECT = (
    "select coalesce(current_setting($1, true), ''), current_setting('transaction_read_only')"
)


def session_check(app_url: str, world: World) -> Check:
    """Use the service's own sessions, and inspect the connection after each."""
    issues, inspections = asyncio.run(_inspect_sessions(app_url, world))
    return Check(
        "session",
        "what a session binds ends with its transaction, and reads are read-only",
        f"{inspections} inspections of the settings of a used connection",
        tuple(issues),
    )


def pooler_check(pooled_url: str) -> Check:
    """Inspect, as the next client of PgBouncer, the server connection that the service used."""
    issues = []
    with psycopg.connect(pooled_url, autocommit=True, prepare_threshold=None) as client:
        for setting in SETTINGS:
            row = client.execute("select current_setting(%s, true)", (setting,)).fetchone()
            if row and row[0]:
                issues.append(f"{setting} is still bound behind PgBouncer")
        defaults = {"statement_timeout": "0", "default_transaction_read_only": "off"}
        for name, default in defaults.items():
            row = client.execute("select current_setting(%s)", (name,)).fetchone()
            if row != (default,):
                issues.append(f"{name} is still {json.dumps(row)} behind PgBouncer")
    return Check(
        "pooler",
        "nothing remains bound on the one server connection",
        "inspected as its next client",
        tuple(issues),
    )


async def _inspect_sessions(app_url: str, world: World) -> tuple[list[str], int]:
    """Return the issues, and the number of inspections."""
    issues: list[str] = []
    inspections = 0
    org, subject = world.victim.orgs[0], world.victim.subject
    database = Database(app_url, refuse=issues.append, connections=1)
    sessions: dict[str, Callable[[bool], tenancy.Session]] = {
        "tenant session": lambda read_only: tenancy.tenant_session(
            database, org, read_only=read_only
        ),
        "subject session": lambda read_only: tenancy.subject_session(
            database, subject, read_only=read_only
        ),
    }
    await database.open()
    try:
        for (name, new_session), read_only in product(sessions.items(), (True, False)):
            unbound = tenancy.Session(database, settings={}, read_only=read_only)
            session = new_session(read_only)
            rows = await session.fetch(_INSPECT, SETTINGS[0])
            if (rows[0][1] == b"on") != read_only:
                issues.append(f"{name}: read_only={read_only} has no effect")
            async with session.transaction(org_id=org) as transaction:
                await transaction.run("select 1")
            for setting in SETTINGS:
                values = {(await unbound.fetch(_INSPECT, setting))[0][0]}
                async with unbound.transaction(nothing="") as transaction:
                    values |= {(await transaction.fetch(_INSPECT, setting))[0][0]}
                inspections += 2
                if values - {b""}:
                    issues.append(f"{name}: leaves {setting} bound on the connection")
    finally:
        await database.close()
    return issues, inspections
