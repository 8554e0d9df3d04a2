"""Migrations while the service works: behind a long transaction, several at once, and the release
before on the new schema."""

import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from certify import stage as certify_stage
from certify.stage import ROOT, StageError
from db import schema
from resilience import stage
from resilience.load import Stream, failed, loading, once, percentile, told
from resilience.scenario import NotRun, Scenario, Trial, duration

REVISION = '''"""A column that nobody reads yet."""

from alembic import op

revision = "{revision}"
down_revision = "{before}"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("alter table projects add column note text")


def downgrade() -> None:
    op.execute("alter table projects drop column note")
'''


def behind_a_lock(trial: Trial) -> None:
    """A revision waits for a table that a long transaction reads, and readers go on."""
    held = 2.0 if trial.short else 5.0
    tree = _next_release(trial.folder)
    with (
        stage.postgres(trial.folder) as database,
        stage.service(trial.folder, database.app_url) as service,
    ):
        acme = stage.tenant(service.port)
        read = Stream("read", lambda _: acme.list(), 8, 0.02)
        run = secrets.token_hex(4)
        write = Stream("write", lambda n: acme.create(f"{run} {n}"), 2, 0.02)
        with loading(service.port, read, write) as load, _holding(database.superuser()) as holder:
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
    with stage.postgres(trial.folder, migrated=False) as database:
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
        trial.demand(found == [(schema.head(),)], f"the revision is {found}")


def release_before(trial: Trial) -> None:
    """The release before this one serves its flow on this one's schema, which is ahead of it."""
    with (
        stage.postgres(trial.folder) as database,
        _started_before(trial.folder, database.app_url) as service,
    ):
        versions = service.tree / "db" / "migrations" / "versions"
        known = max(path.name[:4] for path in versions.glob("0*.py"))
        trial.note(f"{service.tree.name[:9]} knows revision {known} of {schema.head()}")
        trial.demand(known < schema.head(), "no revision was added since")
        acme = stage.tenant(service.port)
        project = stage.made(once(service.port, acme.create("Apollo")))["id"]
        steps = (acme.create("Gemini"), acme.list(), acme.get(project), acme.delete(project))
        replies = [once(service.port, step) for step in steps]
        trial.note(f"{len(failed(replies))} of {len(replies) + 3} steps failed")
        trial.demand(not failed(replies), f"failed: {told(failed(replies))}")


@contextmanager
def _started_before(folder: Path, database_url: str) -> Iterator[stage.Service]:
    """Yield the last release, running; without one, the last commit before the newest revision
    whose service starts. Raises `NotRun`."""
    for commit in _before():
        tree = folder / commit
        tree.mkdir()
        archive = _git("archive", commit, "--", "db", "handlers", "openapi")
        subprocess.run(["tar", "-x", "-C", str(tree)], input=archive, check=True)
        service = stage.Service(folder, database_url, tree)
        try:
            service.start()
        except StageError:  # a commit between two that belong together
            continue
        try:
            yield service
        finally:
            service.stop()
        return
    raise NotRun("no service before the newest revision starts")


def _before() -> list[str]:
    if not (ROOT / ".git").exists():
        raise NotRun("there is no git history to take the release before from")
    tags = _lines("tag", "--list", "v*", "--sort=-version:refname")
    if tags:
        return tags[:1]
    added = _lines("log", "--format=%H", "--diff-filter=A", "--", "db/migrations/versions")
    return _lines("rev-list", "--max-count=8", f"{added[0]}~1")


def _git(*arguments: str) -> bytes:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=False)
    if done.returncode:
        raise NotRun(f"git {arguments[0]}: {done.stderr.decode().strip()[:200]}")
    return done.stdout


def _lines(*arguments: str) -> list[str]:
    return _git(*arguments).decode().split()


def _next_release(folder: Path) -> Path:
    """Return a copy of the tree with one revision more."""
    tree = folder / "next"
    for name in ("db", "handlers", "openapi"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    number = f"{int(schema.head()) + 1:04d}"
    revision = REVISION.format(revision=number, before=schema.head())
    (tree / f"db/migrations/versions/{number}_note.py").write_text(revision)
    return tree


def _migrate(log: Path, owner_url: str, tree: Path) -> "subprocess.Popen[bytes]":
    return certify_stage.spawn(log, {"MIGRATION_DATABASE_URL": owner_url}, "migrate", tree)


@contextmanager
def _holding(url: str) -> Iterator["psycopg.Connection[tuple[object, ...]]"]:
    """Yield a transaction that has read the table, until it is rolled back."""
    with psycopg.connect(url) as connection:
        if connection.execute("select count(*) from projects").fetchone() is None:
            raise StageError("the table cannot be read")
        yield connection


SCENARIOS = (
    Scenario(
        "migrate",
        "a revision waits behind a long transaction: 0 failed, readers' p99 under 500 ms",
        behind_a_lock,
        short=True,
    ),
    Scenario("migrate-at-once", "6 processes migrate at once: all succeed, applied once", at_once),
    Scenario(
        "release-before",
        "the release before serves its flow on the new schema",
        release_before,
    ),
)
