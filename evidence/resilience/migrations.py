"""Migrations under load: behind a long transaction, concurrently, and below an older release."""

import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from db import revisions
from db.revisions import SERVICE_LINE
from evidence.harness.postgres import postgres
from evidence.harness.processes import ROOT, HarnessError, Process, last_line, spawn
from evidence.harness.services import Service, inherited, serving
from evidence.resilience.load import (
    Stream,
    failures,
    latency_percentile,
    loading,
    send_once,
    summarize,
)
from evidence.resilience.scenario import Scenario, Trial, format_duration
from evidence.resilience.tenants import create_tenant, created_resource

# The folders that the image contains, and which therefore make up a release here.
RELEASE_FOLDERS = ("db", "handlers", "openapi", "service")
# The service checks the schema's revision twice a second.
REVISION_CHECK_SECONDS = 1
REVISION = '''"""A column that no code reads yet, and a table with policies."""

from alembic import op

revision = "{revision}"
down_revision = "{before}"
branch_labels = None
depends_on = None

TENANT = "(select nullif(current_setting('app.org_id', true), '')::uuid)"
SUBJECT = "(select nullif(current_setting('app.subject', true), ''))"


def upgrade() -> None:
    op.execute("alter table projects add column note text")
    op.execute("create table notes (org_id uuid not null references organizations"
               " on delete cascade, id uuid not null, subject text not null,"
               " primary key (org_id, id))")
    op.execute("alter table notes enable row level security")
    op.execute("alter table notes force row level security")
    op.execute(f"create policy tenant_isolation on notes using (org_id = {{TENANT}})"
               f" with check (org_id = {{TENANT}})")
    op.execute(f"create policy author_read on notes for select using (subject = {{SUBJECT}})")
    op.execute("grant select, insert on notes to covenant_app")


def downgrade() -> None:
    op.execute("drop table notes")
    op.execute("alter table projects drop column note")
'''


def migrate_behind_lock(trial: Trial) -> None:
    """Migrate a table that a long transaction reads. Requests must not queue behind the lock."""
    held_seconds = 2.0 if trial.is_short else 5.0
    tree = _next_release(trial.folder)
    with (
        postgres(trial.folder) as database,
        serving(trial.folder, database.app_url) as service,
    ):
        tenant, run = create_tenant(service.port), secrets.token_hex(4)
        read = Stream("read", lambda _: tenant.list(), 8, 0.02)
        write = Stream("write", lambda n: tenant.create(f"{run} {n}"), 2, 0.02)
        with (
            loading(service.port, read, write) as load,
            _reading_transaction(database.superuser_url()) as transaction,
        ):
            time.sleep(0.5)
            started = time.monotonic()
            migration = _migrate(trial.folder / "migrate.log", database.owner_url, tree)
            time.sleep(held_seconds)
            is_waiting = migration.poll() is None
            transaction.rollback()
            code = migration.wait(30)
            seconds = time.monotonic() - started
            time.sleep(0.5)
            responses = [r for r in load.stop() if r.started > started]
    failed = failures(responses)
    p99 = latency_percentile([r for r in responses if r.stream == "read"], 0.99)
    trial.record(f"migrated in {format_duration(seconds)}, {len(failed)} requests failed")
    trial.expect_within(f"{len(responses):,} requests, p99 of reads", p99, 0.5)
    trial.expect(is_waiting, "the migration did not wait for the transaction")
    trial.expect(code == 0, f"the migration: exit {code}")
    trial.expect(not failed, f"failed: {summarize(failed)}")


def migrate_concurrently(trial: Trial) -> None:
    """Migrate an empty database in several processes at the same time."""
    count = 3 if trial.is_short else 6
    with postgres(trial.folder, migrated=False) as database:
        logs = [trial.folder / f"migrate-{n}.log" for n in range(count)]
        started = time.monotonic()
        processes = [_migrate(log, database.owner_url, ROOT) for log in logs]
        codes = [process.wait(60) for process in processes]
        seconds = time.monotonic() - started
        output = [log.read_text().strip() for log in logs]
        revision = database.rows("select version_num from alembic_version")
    trial.record(f"{codes.count(0)} of {count} succeed in {format_duration(seconds)}")
    trial.expect(set(codes) == {0}, f"exits {codes}: {output}"[:400])
    upgrades = sum("->" in text for text in output)
    trial.record(f"{upgrades} upgrades the schema")
    trial.expect(upgrades == 1, f"{upgrades} upgrade the schema, expected 1: {output}"[:400])
    heads = [(head,) for head in revisions.history().heads]
    trial.expect(sorted(revision) == heads, f"the revision is {revision}")


def previous_release(trial: Trial) -> None:
    """Migrate below a running release, and start the release on the new schema."""
    with postgres(trial.folder) as database:
        if tag := _last_release():
            tree = _check_out(trial.folder, tag)
            trial.record(f"{tag} on revision {revisions.label(revisions.history().heads)}")
        else:
            tree = ROOT
            trial.record("no older release is tagged: this one, on an additional revision")
        with serving(trial.folder, database.app_url, tree=tree) as service:
            if tree == ROOT:
                log, next_tree = trial.folder / "migrate.log", _next_release(trial.folder)
                code = _migrate(log, database.owner_url, next_tree).wait(60)
                trial.expect(code == 0, f"the migration: {last_line(log)}")
            time.sleep(REVISION_CHECK_SECONDS)
            trial.expect(service.is_running, f"the service exited: {last_line(service.log)}")
            _use(trial, service, "running")
        with serving(trial.folder, database.app_url, tree=tree) as service:
            _use(trial, service, "started")


def _use(trial: Trial, service: Service, state: str) -> None:
    """Create, list, get and delete projects."""
    tenant = create_tenant(service.port)
    project = created_resource(send_once(service.port, tenant.create("Apollo")))["id"]
    requests = (tenant.create("Gemini"), tenant.list(), tenant.get(project), tenant.delete(project))
    failed = failures([send_once(service.port, request) for request in requests])
    trial.record(f"{state}: {len(failed)} of {len(requests)} requests failed")
    trial.expect(not failed, f"{state}: {summarize(failed)}")


def _last_release() -> str | None:
    """Return the newest tag `v…` without this tree's newest revision, or None."""
    if not (ROOT / ".git").exists():
        return None
    tags = _git("tag", "--list", "v*", "--sort=-version:refname").decode().split()
    revision = f"/{revisions.history().newest(SERVICE_LINE).file.name}"
    return next(
        (t for t in tags if revision not in _git("ls-tree", "-r", "--name-only", t).decode()), None
    )


def _check_out(folder: Path, tag: str) -> Path:
    """Extract the folders of a release. Older ones have no `service`."""
    tree = folder / tag
    tree.mkdir()
    tagged = _git("ls-tree", "--name-only", tag).decode().split()
    archive = _git("archive", tag, "--", *(name for name in RELEASE_FOLDERS if name in tagged))
    subprocess.run(["tar", "-x", "-C", str(tree)], input=archive, check=True)
    return tree


def _git(*arguments: str) -> bytes:
    process = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=False)
    if process.returncode:
        raise HarnessError(f"git {arguments[0]}: {process.stderr.decode().strip()[:200]}")
    return process.stdout


def _next_release(folder: Path) -> Path:
    """Return a copy of the tree with an additional revision."""
    tree = folder / "next"
    for name in RELEASE_FOLDERS:
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    newest = revisions.history().newest(SERVICE_LINE)
    id = f"{newest.number + 1:04d}_note"
    revision = REVISION.format(revision=id, before=newest.id)
    (tree / f"db/migrations/versions/{id}.py").write_text(revision)
    return tree


def _migrate(log: Path, owner_url: str, tree: Path) -> Process:
    environment = inherited() | {"MIGRATION_DATABASE_URL": owner_url}
    command = [sys.executable, "-m", "service", "migrate"]
    return spawn(command, log, environment=environment, folder=tree)


@contextmanager
def _reading_transaction(url: str) -> Iterator["psycopg.Connection[tuple[object, ...]]"]:
    """Yield a transaction that has read projects, and holds a lock until it is rolled back."""
    with psycopg.connect(url) as connection:
        connection.execute("select count(*) from projects")
        yield connection


SCENARIOS = (
    Scenario(
        "migrate",
        "a migration waits behind a long transaction: 0 failed, p99 of reads under 500 ms",
        migrate_behind_lock,
    ),
    Scenario(
        "migrate-at-once",
        "6 processes migrate at the same time: all succeed, one upgrades the schema",
        migrate_concurrently,
    ),
    Scenario(
        "release-before",
        "the previous release serves during and after a migration, and starts on its schema",
        previous_release,
    ),
)
