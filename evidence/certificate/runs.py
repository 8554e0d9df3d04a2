"""Run the matrix and the checks, and assemble the certificate."""

import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import psycopg

from evidence.certificate import checks, matrix, metadata, session_checks
from evidence.certificate.actors import World
from evidence.certificate.client import Client
from evidence.certificate.creators import coverage_issues
from evidence.certificate.environments import (
    ContractMismatch,
    RunningService,
    connect,
    mutated_database,
    require_same_contract,
    started_service,
)
from evidence.certificate.identities import build_world
from evidence.certificate.probes import Rows, run_cases
from evidence.certificate.results import Case, Certificate, Check, Run
from evidence.certificate.row_snapshots import tenant_tables
from evidence.certificate.seeds import seeds
from evidence.certificate.timing import timing_checks
from evidence.certificate.values import Uncoverable
from evidence.harness.pgbouncer import pooler
from evidence.harness.postgres import Database, any_server
from evidence.harness.processes import HarnessError, find_program
from openapi.contract import Contract

Progress = Callable[[str], None]
Connection = psycopg.Connection[Any]


class Part(StrEnum):
    """What a certificate consists of."""

    MATRIX = "matrix"
    LAYERS = "layers"
    TIMING = "timing"
    POOLER = "pooler"


@dataclass(frozen=True)
class Options:
    """What to run. `sql` mutates the new database; `undo_sql` repairs the server afterwards."""

    parts: tuple[Part, ...] = tuple(Part)
    sql: str = ""
    undo_sql: str = ""


@dataclass(frozen=True)
class RunResult:
    """A run, the issues that ended it early, and what it left out."""

    run: Run
    issues: tuple[str, ...] = ()
    not_run: tuple[str, ...] = ()


def certify_tree(contract: Contract, options: Options, progress: Progress) -> Certificate:
    """Return the certificate of this tree, for a new database and a new service."""
    started = time.monotonic()
    results: list[RunResult] = []
    issues = _coverage_issues(contract)
    not_run = [f"{part}: not selected" for part in Part if part not in options.parts]
    version = "unknown"
    with tempfile.TemporaryDirectory(prefix="certify-") as name, ExitStack() as stack:
        folder = Path(name)
        try:
            server_url = stack.enter_context(any_server(folder))
            database = stack.enter_context(
                mutated_database(server_url, options.sql, options.undo_sql)
            )
            superuser = stack.enter_context(connect(database.superuser_url))
            version = superuser.info.parameter_status("server_version") or version
            progress(f"PostgreSQL {version}")
            parts = options.parts
            results.append(_direct_run(contract, parts, folder, database, superuser, progress))
            if Part.POOLER in parts and find_program("pgbouncer") is None:
                not_run.append("pooler: pgbouncer is not installed (apt-get install pgbouncer)")
            elif Part.POOLER in parts:
                results.append(_pooled_run(contract, folder, database, superuser, progress))
        except HarnessError as error:
            issues.append(f"setup: {error}")
    for result in results:
        issues += result.issues
        not_run += result.not_run
    about = metadata.collect(contract, version, started)
    runs = tuple(result.run for result in results)
    return Certificate(about, runs, tuple(not_run), tuple(issues))


def certify_service(
    contract: Contract,
    service: RunningService,
    database_url: str | None,
    parts: tuple[Part, ...],
    progress: Progress,
) -> Certificate:
    """Return the certificate of a running service: matrix, and timing if selected.

    Expired tokens need its keys; row hashes need `database_url`. Raises `ContractMismatch`.
    """
    started = time.monotonic()
    client = Client(service.host, service.port)
    not_run = ["layers, pooler: they need a database and a service of the certificate's own"]
    not_run += [] if Part.TIMING in parts else ["timing: not selected"]
    issues = _coverage_issues(contract)
    cases: tuple[Case, ...] = ()
    timing: list[Check] = []
    with closing(client), ExitStack() as stack:
        require_same_contract(contract, client)
        superuser = stack.enter_context(connect(database_url)) if database_url else None
        if superuser is None:
            not_run.append("effects: --database-url is missing, so rows were not examined")
        rows = Rows(superuser, tenant_tables(superuser) if superuser else [])
        try:
            world = build_world(contract, client, service.keys_dir, superuser)
            plans = matrix.plans(contract)
            cases = tuple(run_cases(world, plans, rows, progress))
            if Part.TIMING in parts:
                timing = timing_checks(world, plans, progress)
            not_run += world.not_run
        except Uncoverable as error:
            issues.append(f"cannot be covered: {error}")
    runs = (Run("direct", cases, tuple(timing)),)
    about = metadata.collect(contract, "unknown", started)
    return Certificate(about, runs, tuple(not_run), tuple(issues))


def _coverage_issues(contract: Contract) -> list[str]:
    return coverage_issues(contract, {seed.parameter for seed in seeds(contract)})


def _direct_run(
    contract: Contract,
    parts: tuple[Part, ...],
    folder: Path,
    database: Database,
    superuser: Connection,
    progress: Progress,
) -> RunResult:
    results: list[Check] = []
    cases: tuple[Case, ...] = ()
    issues: list[str] = []
    not_run: tuple[str, ...] = ()
    if Part.LAYERS in parts:
        results.append(checks.catalogue_check(contract, superuser))
    try:
        if {Part.MATRIX, Part.LAYERS, Part.TIMING} & set(parts):
            with (
                started_service(folder / "direct", database.app_url) as service,
                closing(Client(service.host, service.port)) as client,
            ):
                require_same_contract(contract, client)
                world = build_world(contract, client, service.keys_dir, superuser)
                not_run = world.not_run
                plans, rows = matrix.plans(contract), Rows(superuser, tenant_tables(superuser))
                if Part.LAYERS in parts:
                    url = database.app_url
                    results += _layer_checks(url, superuser, world, rows, is_pooled=False)
                    results.append(session_checks.session_check(url, world))
                if Part.MATRIX in parts:
                    cases = tuple(run_cases(world, plans, rows, progress))
                if Part.TIMING in parts:
                    results += timing_checks(world, plans, progress)
    except (HarnessError, ContractMismatch) as error:
        issues.append(f"setup: {error}")
    except Uncoverable as error:
        issues.append(f"cannot be covered: {error}")
    return RunResult(Run("direct", cases, tuple(results)), tuple(issues), not_run)


def _pooled_run(
    contract: Contract, folder: Path, database: Database, superuser: Connection, progress: Progress
) -> RunResult:
    results: list[Check] = []
    cases: tuple[Case, ...] = ()
    issues: list[str] = []
    pool = folder / "pgbouncer"
    pool.mkdir()
    try:
        with (
            pooler(pool, database.app_url) as url,
            started_service(folder / "pooled", url) as service,
            closing(Client(service.host, service.port)) as client,
        ):
            world = build_world(contract, client, service.keys_dir, superuser)
            rows = Rows(superuser, tenant_tables(superuser))
            results += _layer_checks(url, superuser, world, rows, is_pooled=True)
            plans = matrix.plans(contract)
            cases = tuple(run_cases(world, plans, rows, lambda id: progress(f"pooled {id}")))
            results.append(session_checks.pooler_check(url))
    except HarnessError as error:
        issues.append(f"setup: pooled: {error}")
    except Uncoverable as error:
        issues.append(f"pooled: cannot be covered: {error}")
    return RunResult(Run("pooled", cases, tuple(results)), tuple(issues))


def _layer_checks(
    app_url: str, superuser: Connection, world: World, rows: Rows, *, is_pooled: bool
) -> list[Check]:
    return [
        *checks.settings_checks(app_url, superuser, world, rows.tables),
        checks.alternation_check(app_url, world, rows.tables, is_pooled=is_pooled),
        checks.service_alternation_check(world),
    ]
