"""One run: set the stage, run the matrix and the layers, and say what was found."""

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from db.errors import first_line
from evidence.certificate import checks, identities, matrix, metadata, probes, row_snapshots, timing
from evidence.certificate.client import Client
from evidence.certificate.identities import World
from evidence.certificate.probes import Rows
from evidence.certificate.results import Case, Certificate, Check, Request, Run
from evidence.certificate.seeds import seeds
from evidence.certificate.values import Uncoverable
from evidence.harness.pgbouncer import pooler
from evidence.harness.postgres import Database, any_server, execute, new_database
from evidence.harness.processes import HarnessError, find_program, last_line
from evidence.harness.services import serving
from openapi.contract import Contract

PARTS = ("matrix", "layers", "timing", "pooler")


@dataclass(frozen=True)
class Options:
    """What to run; `planted` and `undo` are SQL that spoils the database and heals the server."""

    parts: tuple[str, ...] = PARTS
    planted: str = ""
    undo: str = ""


@dataclass(frozen=True)
class Found:
    """What one way to the database brought: its run, and why parts of it were not run."""

    run: Run
    faults: tuple[str, ...]
    not_run: tuple[str, ...]


@dataclass(frozen=True)
class Target:
    """The service that is certified; its keys are known where this process started it."""

    host: str
    port: int
    keys_dir: Path | None


class OtherContract(Exception):
    """The service serves another contract than the one that is checked out."""


def certificate(contract: Contract, options: Options, say: Callable[[str], None]) -> Certificate:
    """Return the certificate of this tree, on a database and a service of its own."""
    started = time.monotonic()
    found: list[Found] = []
    faults = [*_uncoverable(contract)]
    not_run = [f"{part}: not asked for" for part in PARTS if part not in options.parts]
    version = "unknown"
    with tempfile.TemporaryDirectory(prefix="certify-") as name, ExitStack() as stack:
        folder = Path(name)
        try:
            url = stack.enter_context(any_server(folder))
            database = stack.enter_context(_spoilt_database(url, options))
            superuser = stack.enter_context(_connected(database.superuser_url))
            version = str(superuser.execute("show server_version").fetchone()[0])  # type: ignore[index]
            say(f"PostgreSQL {version}")
            found.append(_direct(contract, options, folder, database, superuser, say))
            if "pooler" in options.parts and find_program("pgbouncer") is None:
                not_run.append("pooler: pgbouncer is not installed (apt-get install pgbouncer)")
            elif "pooler" in options.parts:
                found.append(_pooled(contract, folder, database, superuser, say))
        except HarnessError as error:
            faults.append(f"stage: {error}")
    for part in found:
        faults += part.faults
        not_run += part.not_run
    runs = tuple(part.run for part in found)
    told = metadata.of(contract, version, started)
    return Certificate(told, runs, tuple(not_run), tuple(faults), figures(runs))


def remote(
    contract: Contract,
    service: Target,
    database_url: str | None,
    parts: tuple[str, ...],
    say: Callable[[str], None],
) -> Certificate:
    """Return the certificate of a service that is running already.

    Raises `OtherContract`. What needs its keys or its database is not run without them.
    """
    started = time.monotonic()
    client = Client(service.host, service.port)
    not_run = ["layers, pooler: a running service was given, not its database"]
    not_run += [] if "timing" in parts else ["timing: not asked for"]
    faults = [*_uncoverable(contract)]
    cells: tuple[Case, ...] = ()
    rules: list[Check] = []
    with closing(client), ExitStack() as stack:
        demand_contract(contract, client)
        superuser = stack.enter_context(_connected(database_url)) if database_url else None
        if superuser is None:
            not_run.append("effects: without --database-url no row can be looked at")
        rows = Rows(superuser, row_snapshots.tables(superuser) if superuser else [])
        try:
            world = identities.world(contract, client, service.keys_dir, superuser)
            plans = matrix.plans(contract)
            cells = tuple(probes.cells(world, plans, rows, say))
            if "timing" in parts:
                rules = timing.rules(world, plans, say)
            not_run += world.not_run
        except Uncoverable as error:
            faults.append(f"cannot be covered: {error}")
    runs = (Run("direct", cells, tuple(rules)),)
    told = metadata.of(contract, "unknown", started)
    return Certificate(told, runs, tuple(not_run), tuple(faults), figures(runs))


def _uncoverable(contract: Contract) -> list[str]:
    return matrix.uncoverable(contract, {seed.parameter for seed in seeds(contract)})


def demand_contract(contract: Contract, client: Client) -> None:
    """Raise `OtherContract` unless the service says that it serves the contract checked out."""
    answer = client.send(Request("GET", "/"))
    try:
        served = str(json.loads(answer.body)["contract"])
    except (LookupError, ValueError, TypeError):
        raise OtherContract(f"GET / answered {answer.status} and names no contract") from None
    if served != f"sha256:{contract.hash}":
        raise OtherContract(
            f"the service serves {served}, checked out is sha256:{contract.hash}: nothing was run"
        )


def figures(runs: tuple[Run, ...]) -> dict[str, Any]:
    """Return how much was looked at."""
    cells = [cell for run in runs for cell in run.cells]
    states = {state: sum(c.state == state for c in cells) for state in ("pass", "fail", "n/a")}
    return {
        "operations": len({cell.operation for cell in cells}),
        "cells": len(cells),
        "cells_by_state": states,
        "probes": sum(len(cell.evidence) for cell in cells),
        "rules": sum(len(run.rules) for run in runs),
    }


def _direct(
    contract: Contract,
    options: Options,
    folder: Path,
    database: Database,
    superuser: psycopg.Connection[Any],
    say: Callable[[str], None],
) -> Found:
    rules = [checks.catalogue_rule(contract, superuser)] if "layers" in options.parts else []
    cells: tuple[Case, ...] = ()
    faults: list[str] = []
    not_run: list[str] = []
    wanted = [part for part in options.parts if part != "pooler"]
    try:
        if wanted:
            with _target(folder / "direct", database.app_url) as service:
                client = Client(service.host, service.port)
                demand_contract(contract, client)
                world = identities.world(contract, client, service.keys_dir, superuser)
                not_run += world.not_run
                plans, rows = (
                    matrix.plans(contract),
                    Rows(superuser, row_snapshots.tables(superuser)),
                )
                if "layers" in options.parts:
                    rules += _layers(database.app_url, superuser, world, rows, pooled=False)
                    rules.append(checks.door_rule(database.app_url, world))
                if "matrix" in options.parts:
                    cells = tuple(probes.cells(world, plans, rows, say))
                if "timing" in options.parts:
                    rules += timing.rules(world, plans, say)
    except HarnessError as error:
        faults.append(f"stage: {error}")
    except OtherContract as error:
        faults.append(f"stage: {error}")
    except Uncoverable as error:
        faults.append(f"cannot be covered: {error}")
    return Found(Run("direct", cells, tuple(rules)), tuple(faults), tuple(not_run))


def _pooled(
    contract: Contract,
    folder: Path,
    database: Database,
    superuser: psycopg.Connection[Any],
    say: Callable[[str], None],
) -> Found:
    rules: list[Check] = []
    cells: tuple[Case, ...] = ()
    faults = []
    pool = folder / "pgbouncer"
    pool.mkdir()
    try:
        with (
            pooler(pool, database.app_url) as url,
            _target(folder / "pooled", url) as service,
        ):
            client = Client(service.host, service.port)
            world = identities.world(contract, client, service.keys_dir, superuser)
            rows = Rows(superuser, row_snapshots.tables(superuser))
            rules += _layers(url, superuser, world, rows, pooled=True)
            cells = tuple(
                probes.cells(world, matrix.plans(contract), rows, lambda id: say(f"pooled {id}"))
            )
            rules.append(checks.leftover_rule(url))
    except HarnessError as error:
        faults.append(f"stage: pooled: {error}")
    except Uncoverable as error:
        faults.append(f"pooled: cannot be covered: {error}")
    return Found(Run("pooled", cells, tuple(rules)), tuple(faults), ())


def _layers(
    app_url: str, superuser: psycopg.Connection[Any], world: World, rows: Rows, *, pooled: bool
) -> list[Check]:
    return [
        *checks.settings_rules(app_url, superuser, world, rows.tables),
        checks.alternation_rule(app_url, world, rows.tables, pooled),
        checks.service_alternation_rule(world),
    ]


def _connected(url: str) -> psycopg.Connection[Any]:
    return psycopg.connect(url, autocommit=True)


@contextmanager
def _spoilt_database(superuser_url: str, options: Options) -> Iterator[Database]:
    """Yield a new database, spoilt by `options.planted`; `options.undo` repairs the server."""
    with new_database(superuser_url, "certify") as database:
        try:
            if options.planted:
                execute(database.superuser_url, options.planted)
        except psycopg.Error as error:
            raise HarnessError(f"the database: {first_line(error)}") from error
        try:
            yield database
        finally:
            if options.undo:
                execute(database.superuser_url, options.undo)


@contextmanager
def _target(folder: Path, database_url: str) -> Iterator[Target]:
    """Run the service of this tree with one connection of each kind. Raises `HarnessError`."""
    folder.mkdir()
    settings = {
        "DATABASE_CONNECTIONS": "1",
        "HOST": "127.0.0.1",
        "RATE_LIMITS": "false",
        "DRAIN_SECONDS": "0",
        "VALIDATE_RESPONSES": "true",
    }
    with serving(folder, database_url, environment=settings) as service:
        yield Target("127.0.0.1", service.port, service.keys_dir)
        if not service.is_running:
            raise HarnessError(f"the service ended: {last_line(service.log)}")
