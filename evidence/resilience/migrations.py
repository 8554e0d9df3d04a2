"""Migrations while the service works: behind a long transaction, several at once, and the release
before on the new schema."""

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
from evidence.harness.postgres import postgres
from evidence.harness.processes import ROOT, HarnessError, last_line, spawn
from evidence.harness.services import Service, inherited, serving
from evidence.resilience.load import Stream, failed, loading, once, percentile, told
from evidence.resilience.scenario import Scenario, Trial, duration
from evidence.resilience.tenants import created, tenant

# What the image holds, and so what a release is here.
SERVED = ("db", "handlers", "openapi", "service")
REVISION = '''"""A column that nobody reads yet, and a table with a policy of its own."""

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


def behind_a_lock(trial: Trial) -> None:
    """A revision waits for a table that a long transaction reads, and readers go on."""
    held = 2.0 if trial.short else 5.0
    tree = _next_release(trial.folder)
    with (
        postgres(trial.folder) as database,
        serving(trial.folder, database.app_url) as service,
    ):
        acme = tenant(service.port)
        read = Stream("read", lambda _: acme.list(), 8, 0.02)
        run = secrets.token_hex(4)
        write = Stream("write", lambda n: acme.create(f"{run} {n}"), 2, 0.02)
        with (
            loading(service.port, read, write) as load,
            _holding(database.superuser_url()) as holder,
        ):
            time.sleep(0.5)
            began = time.monotonic()
            migrating = _migrate(trial.folder / "migrate.log", database.owner_url, tree)
            time.sleep(held)
            waited = migrating.poll() is None
            holder.rollback()
            code = migrating.wait(30)
            took = time.monotonic() - began
            time.sleep(0.5)
            replies = [r for r in load.stop() if r.began > began]
        p99 = percentile([r for r in replies if r.stream == "read"], 0.99)
        trial.note(f"migrated after {duration(took)}, {len(failed(replies))} failed")
        trial.within(f"{len(replies):,} requests, readers' p99", p99, 0.5)
        trial.demand(waited, "the migration did not wait: nothing was tried")
        trial.demand(code == 0, f"the migration: exit {code}")
        trial.demand(not failed(replies), f"failed: {told(failed(replies))}")


def at_once(trial: Trial) -> None:
    """Several processes migrate an empty database at the same time."""
    count = 3 if trial.short else 6
    with postgres(trial.folder, migrated=False) as database:
        logs = [trial.folder / f"migrate-{n}.log" for n in range(count)]
        began = time.monotonic()
        started = [_migrate(log, database.owner_url, ROOT) for log in logs]
        codes = [process.wait(60) for process in started]
        said = [log.read_text().strip() for log in logs]
        trial.note(f"{codes.count(0)} of {count} succeeded in {duration(time.monotonic() - began)}")
        trial.demand(set(codes) == {0}, f"exits {codes}: {said}"[:400])
        applied = [line for line in said if "->" in line]
        trial.note(f"{len(applied)} applied it")
        trial.demand(len(applied) == 1, f"applied by {len(applied)}: {said}"[:400])
        found = database.rows("select version_num from alembic_version")
        trial.demand(found == [(revisions.head(),)], f"the revision is {found}")


def release_before(trial: Trial) -> None:
    """A release goes on serving while the next one migrates, and starts on its schema."""
    with postgres(trial.folder) as database:
        if tag := _last_release():
            tree = _checked_out(trial.folder, tag)
            trial.note(f"{tag} on revision {revisions.head()}")
        else:
            tree = ROOT
            trial.note("this release on the revision of a next one, as none is tagged")
        with serving(trial.folder, database.app_url, tree=tree) as service:
            if tree == ROOT:
                log, later = trial.folder / "migrate.log", _next_release(trial.folder)
                code = _migrate(log, database.owner_url, later).wait(60)
                trial.demand(code == 0, f"the migration: {last_line(log)}")
            time.sleep(1)  # it looks at the revision twice a second
            trial.demand(service.is_running, f"it ended: {last_line(service.log)}")
            _flow(trial, service, "running")
        with serving(trial.folder, database.app_url, tree=tree) as service:
            _flow(trial, service, "started")


def _flow(trial: Trial, service: Service, when: str) -> None:
    acme = tenant(service.port)
    project = created(once(service.port, acme.create("Apollo")))["id"]
    steps = (acme.create("Gemini"), acme.list(), acme.get(project), acme.delete(project))
    replies = [once(service.port, step) for step in steps]
    trial.note(f"{when}: {len(failed(replies))} of {len(replies) + 3} steps failed")
    trial.demand(not failed(replies), f"{when}: {told(failed(replies))}")


def _last_release() -> str | None:
    """Return the newest tag `v…` that knows fewer revisions than this tree."""
    if not (ROOT / ".git").exists():
        return None
    tags = _git("tag", "--list", "v*", "--sort=-version:refname").decode().split()
    newest = f"/{revisions.head()}_"
    return next(
        (t for t in tags if newest not in _git("ls-tree", "-r", "--name-only", t).decode()), None
    )


def _checked_out(folder: Path, tag: str) -> Path:
    tree = folder / tag
    tree.mkdir()
    archive = _git("archive", tag, "--", *SERVED)
    subprocess.run(["tar", "-x", "-C", str(tree)], input=archive, check=True)
    return tree


def _git(*arguments: str) -> bytes:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=False)
    if done.returncode:
        raise HarnessError(f"git {arguments[0]}: {done.stderr.decode().strip()[:200]}")
    return done.stdout


def _next_release(folder: Path) -> Path:
    """Return a copy of the tree with one revision more."""
    tree = folder / "next"
    for name in SERVED:
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    number = f"{int(revisions.head()) + 1:04d}"
    revision = REVISION.format(revision=number, before=revisions.head())
    (tree / f"db/migrations/versions/{number}_note.py").write_text(revision)
    return tree


def _migrate(log: Path, owner_url: str, tree: Path) -> "subprocess.Popen[bytes]":
    environment = inherited() | {"MIGRATION_DATABASE_URL": owner_url}
    command = [sys.executable, "-m", "service", "migrate"]
    return spawn(command, log, environment=environment, folder=tree)


@contextmanager
def _holding(url: str) -> Iterator["psycopg.Connection[tuple[object, ...]]"]:
    """Yield a transaction that has read the table, until it is rolled back."""
    with psycopg.connect(url) as connection:
        if connection.execute("select count(*) from projects").fetchone() is None:
            raise HarnessError("the table cannot be read")
        yield connection


SCENARIOS = (
    Scenario(
        "migrate",
        "a revision waits behind a long transaction: 0 failed, readers' p99 under 500 ms",
        behind_a_lock,
    ),
    Scenario("migrate-at-once", "6 processes migrate at once: all succeed, applied once", at_once),
    Scenario(
        "release-before",
        "a release serves on through the next one's migration, and starts on its schema",
        release_before,
    ),
)
