"""The drill: dump, drop, restore into an empty server, compare every tenant's rows."""

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
from evidence.resilience.load import once
from evidence.resilience.scenario import Scenario, Trial, duration
from evidence.resilience.tenants import created, tenant
from openapi import contract

BACKUP = "covenant_backup"
ROWS = 200_000
# A row's hash is of all its columns; a tenant's is of its rows in order.
HASHES = """
select org_id::text, count(*), md5(string_agg(md5(t::text), '' order by t::text))
from {table} t group by org_id"""


def drill(trial: Trial) -> None:
    """Dump as a role that may read every tenant's rows, and restore where there is nothing."""
    count = 5_000 if trial.short else ROWS
    dump = trial.folder / "covenant.dump"
    with postgres(trial.folder) as old:
        with serving(trial.folder, old.app_url) as service:
            acme = tenant(service.port)
            apollo = created(once(service.port, acme.create("Apollo")))["id"]
        _fill(old, count)
        before = _hashes(old)
        _refuse_the_service(trial, old, trial.folder / "refused.dump")
        password = secrets.token_hex(16)
        old.execute(f"create role {BACKUP} login bypassrls password '{password}'")
        old.execute(f"grant pg_read_all_data to {BACKUP}")
        began = time.monotonic()
        _run("pg_dump", "--format=custom", "--file", str(dump), old.url(BACKUP, password))
        trial.note(f"dumped {count:,} rows in {duration(time.monotonic() - began)}")
    new = Postgres(trial.folder / "new", primary=old)
    try:
        new.start()
        began = time.monotonic()
        new.make_roles()
        # Without --create what was revoked from everybody on the database is granted again.
        to = new.superuser_url("postgres")
        _run("pg_restore", "--create", "--exit-on-error", "--dbname", to, str(dump))
        trial.note(f"restored in {duration(time.monotonic() - began)}")
        _compare(trial, before, new)
        with serving(trial.folder, new.app_url) as service:
            reply = once(service.port, acme.get(apollo))
            trial.demand(b"Apollo" in reply.body, f"the tenant's row: {reply}")
            trial.note(f"served after {duration(time.monotonic() - began)}")
    finally:
        new.stop()


def _fill(database: Postgres, rows: int) -> None:
    """Make a hundred tenants with so many projects between them."""
    database.execute(
        "insert into organizations (id, name)"
        " select gen_random_uuid(), 'Org ' || n from generate_series(1, 100) n"
    )
    database.execute(
        "insert into projects (org_id, id, name)"
        f" select o.id, gen_random_uuid(), 'Project ' || n"
        f" from organizations o, generate_series(1, {rows // 100}) n"
    )


def _hashes(database: Postgres) -> dict[str, list[tuple[object, ...]]]:
    """Return, for every table with an org_id, the hash of each tenant's rows."""
    tables = database.rows(
        "select table_name from information_schema.columns"
        " where table_schema = 'public' and column_name = 'org_id' order by 1"
    )
    named = [str(table) for (table,) in tables]
    found = {table: sorted(database.rows(HASHES.format(table=table))) for table in named}
    orgs = "select id::text, md5(t::text) from organizations t order by 1"
    return {**found, "organizations": database.rows(orgs)}


def _refuse_the_service(trial: Trial, database: Postgres, dump: Path) -> None:
    """Neither the service nor the owner may make a dump that silently lacks rows."""
    for who, url in (("the service", database.app_url), ("the owner", database.owner_url)):
        command = [str(embedded.binary("pg_dump")), "--file", str(dump), url]
        done = subprocess.run(command, capture_output=True, check=False)
        trial.demand(done.returncode != 0, f"{who} made a dump, without the rows of tenants")


def _compare(trial: Trial, before: dict[str, list[tuple[object, ...]]], new: Postgres) -> None:
    after = _hashes(new)
    tenants = len(before["organizations"])
    trial.note(f"{tenants} tenants in {len(before)} tables compared")
    trial.demand(
        before == after, f"rows differ: {[t for t in before if before[t] != after.get(t)]}"
    )
    with psycopg.connect(new.superuser_url()) as connection:
        faults = catalogue.issues(connection, catalogue.required_privileges(contract.load()))
    trial.note(f"{len(faults)} faults of the catalogue")
    trial.demand(not faults, f"the catalogue: {sorted(faults)[:5]}")


def _run(program: str, *arguments: str) -> None:
    command = [str(embedded.binary(program)), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise HarnessError(f"{program}: {done.stderr.strip()[:300]}")


SCENARIOS = (
    Scenario(
        "restore",
        "dump, drop, restore into an empty server: every tenant's rows equal, policies in place",
        drill,
        limit=180,
        short=True,
    ),
)
