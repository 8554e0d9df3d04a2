"""The backup drill: dump, restore into an empty server, compare every tenant's rows."""

import secrets
import subprocess
import time
from pathlib import Path

import psycopg

from dev.local import embedded
from evidence.certificate import catalogue
from evidence.harness.postgres import Postgres, postgres
from evidence.harness.processes import HarnessError
from evidence.harness.services import serving
from evidence.resilience.load import send_once
from evidence.resilience.scenario import Scenario, Trial, format_duration
from evidence.resilience.tenants import create_tenant, created_resource
from openapi import contract

BACKUP_ROLE = "covenant_backup"
ROWS = 200_000
ORGANIZATIONS = 100
# The hash of a tenant covers all columns of all its rows, in order.
HASHES = """
select org_id::text, count(*), md5(string_agg(md5(t::text), '' order by t::text))
from {table} t group by org_id"""

# Per table, one row per tenant: its id and the hash of its rows.
Hashes = dict[str, list[tuple[object, ...]]]


def restore(trial: Trial) -> None:
    """Dump as a role that bypasses row-level security, and restore into an empty server."""
    rows = 5_000 if trial.is_short else ROWS
    dump = trial.folder / "covenant.dump"
    with postgres(trial.folder) as old:
        with serving(trial.folder, old.app_url) as service:
            tenant = create_tenant(service.port)
            project = created_resource(send_once(service.port, tenant.create("Apollo")))["id"]
        _fill(old, rows)
        before = _hashes(old)
        _expect_no_partial_dump(trial, old, trial.folder / "partial.dump")
        password = secrets.token_hex(16)
        old.execute(f"create role {BACKUP_ROLE} login bypassrls password '{password}'")
        old.execute(f"grant pg_read_all_data to {BACKUP_ROLE}")
        started = time.monotonic()
        _run("pg_dump", "--format=custom", "--file", str(dump), old.url(BACKUP_ROLE, password))
        trial.record(f"dumped {rows:,} rows in {format_duration(time.monotonic() - started)}")
    new = Postgres(trial.folder / "new", primary=old)
    try:
        new.start()
        started = time.monotonic()
        new.create_roles()
        # Without --create, PUBLIC regains the privileges on the database that were revoked.
        target = new.superuser_url("postgres")
        _run("pg_restore", "--create", "--exit-on-error", "--dbname", target, str(dump))
        trial.record(f"restored in {format_duration(time.monotonic() - started)}")
        _compare(trial, before, new)
        with serving(trial.folder, new.app_url) as service:
            response = send_once(service.port, tenant.get(project))
            trial.expect(b"Apollo" in response.body, f"the tenant's row: {response}")
            trial.record(f"served after {format_duration(time.monotonic() - started)}")
    finally:
        new.stop()


def _fill(database: Postgres, rows: int) -> None:
    """Insert organizations with `rows` projects in total."""
    database.execute(
        "insert into organizations (id, name)"
        f" select gen_random_uuid(), 'Org ' || n from generate_series(1, {ORGANIZATIONS}) n"
    )
    database.execute(
        "insert into projects (org_id, id, name)"
        f" select o.id, gen_random_uuid(), 'Project ' || n"
        f" from organizations o, generate_series(1, {rows // ORGANIZATIONS}) n"
    )


def _hashes(database: Postgres) -> Hashes:
    """Return the hashes of the tenants' rows, for organizations and every table with an org_id."""
    tables = database.rows(
        "select table_name from information_schema.columns"
        " where table_schema = 'public' and column_name = 'org_id' order by 1"
    )
    names = [str(table) for (table,) in tables]
    hashes = {name: sorted(database.rows(HASHES.format(table=name))) for name in names}
    organizations = "select id::text, md5(t::text) from organizations t order by 1"
    return {**hashes, "organizations": database.rows(organizations)}


def _expect_no_partial_dump(trial: Trial, database: Postgres, dump: Path) -> None:
    """Neither the service nor the owner may create a dump that silently misses rows."""
    for role, url in (("the service", database.app_url), ("the owner", database.owner_url)):
        command = [str(embedded.binary("pg_dump")), "--file", str(dump), url]
        code = subprocess.run(command, capture_output=True, check=False).returncode
        trial.expect(code, f"{role} created a dump without the rows of tenants")


def _compare(trial: Trial, before: Hashes, database: Postgres) -> None:
    after = _hashes(database)
    trial.record(f"{len(before['organizations'])} tenants in {len(before)} tables compared")
    different = [table for table in before if before[table] != after.get(table)]
    trial.expect(before == after, f"rows differ in {different}")
    with psycopg.connect(database.superuser_url()) as connection:
        issues = catalogue.issues(connection, catalogue.required_privileges(contract.load()))
    trial.record(f"{len(issues)} issues in the catalogue")
    trial.expect(not issues, f"the catalogue: {sorted(issues)[:5]}")


def _run(program: str, *arguments: str) -> None:
    command = [str(embedded.binary(program)), *arguments]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode:
        raise HarnessError(f"{program}: {process.stderr.strip()[:300]}")


SCENARIOS = (
    Scenario(
        "restore",
        "dump, restore into an empty server: every tenant's rows are equal, policies in place",
        restore,
        timeout=180,
        in_tests=True,
    ),
)
