"""The two lines of revisions: a database ahead or behind, and branches that are merged."""

import re
import subprocess
from pathlib import Path

import pytest

from db import migrate, revisions
from db.migrate import MigrationError
from db.revisions import PLATFORM_LINE, SERVICE_LINE, RevisionError
from dev.planner import planning, renumbering
from dev.planner.change import Change
from tests.platform.fix_planner import migrations_copy
from tests.platform.fix_postgres import Postgres

TEXT = '''"""{id}"""

from alembic import op

revision = "{id}"
down_revision = "{parent}"


def upgrade() -> None:
    op.execute("create table {table} (id int)")


def downgrade() -> None:
    op.execute("drop table {table}")
'''
TIP = revisions.history().newest(SERVICE_LINE).id
NEXT = int(TIP[:4]) + 1
CHANGE = Change("notes", "created", ("select 1",), ())
A, B, C = (f"{NEXT + n:04d}" for n in range(3))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of db/migrations in a git repository whose branch main has all of it."""
    copy = migrations_copy(tmp_path)
    for command in ("init -q -b main", "add .", "commit -q -m base"):
        git(copy, *command.split())
    return copy


def git(folder: Path, *arguments: str) -> None:
    author = ("-c", "user.name=n", "-c", "user.email=e@example.com")
    subprocess.run(["git", *author, *arguments], cwd=folder, check=True, capture_output=True)


def add(folder: Path, id: str, parent: str, table: str = "") -> Path:
    """Add a revision that creates a table, by default named like the revision."""
    name = "platform" if id.startswith("p") else "versions"
    file = folder / name / f"{id}.py"
    file.write_text(TEXT.format(id=id, parent=parent, table=table or f"t{id}"))
    return file


def branch(folder: Path, name: str, *added: tuple[str, str]) -> None:
    """Commit revisions on a branch from main."""
    git(folder, "switch", "-q", "-c", name, "main")
    for id, parent in added:
        add(folder, id, parent)
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", name)


def merge(folder: Path, *names: str) -> None:
    for name in names:
        git(folder, "merge", "-q", "--no-edit", name)


def test_two_branches_add_files_that_do_not_collide_and_the_merge_names_both(folder: Path) -> None:
    branch(folder, "a", (f"{A}_tasks", TIP))
    branch(folder, "b", (f"{A}_invoices", TIP))
    merge(folder, "a")
    with pytest.raises(RevisionError) as error:
        revisions.read(folder)
    message = str(error.value)
    assert f"versions/{A}_invoices.py and " in message
    assert f"versions/{A}_tasks.py: two branches added revisions. Run make renumber" in message


def test_neither_migrate_nor_migration_works_with_two_heads(
    folder: Path, postgres: Postgres
) -> None:
    add(folder, f"{A}_tasks", TIP)
    add(folder, f"{A}_invoices", TIP)
    database = postgres.database()
    with pytest.raises(MigrationError, match="make renumber"):
        migrate.upgrade(database.owner_url, folder=folder)
    with pytest.raises(RevisionError, match="make renumber"):
        planning.write(planning.Plan((CHANGE,), ()), folder=folder)


def test_renumbering_keeps_what_is_deployed_and_moves_the_other_branch_behind_it(
    folder: Path, postgres: Postgres
) -> None:
    branch(folder, "deployed", (f"{A}_tasks", TIP))
    database = postgres.database(migrated=False)
    migrate.upgrade(database.owner_url, folder=folder)
    branch(folder, "later", (f"{A}_invoices", TIP), (f"{B}_lines", f"{A}_invoices"))
    merge(folder, "deployed")
    renamed = renumbering.renumber(folder, "deployed")
    assert [(old.stem, new.stem) for old, new in renamed] == [
        (f"{A}_invoices", f"{B}_invoices"),
        (f"{B}_lines", f"{C}_lines"),
    ]
    order = [f"{A}_tasks", f"{B}_invoices", f"{C}_lines"]
    history = revisions.read(folder)
    assert history.heads == (order[-1],)
    assert [history.by_id[id].parent for id in order] == [TIP, *order[:-1]]
    assert migrate.upgrade(database.owner_url, folder=folder) == (order[0], order[-1])
    assert renumbering.renumber(folder, "deployed") == []


def test_of_two_branches_that_are_not_deployed_the_older_one_stays(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, date in [("older", "2026-01-01T00:00:00Z"), ("newer", "2026-02-01T00:00:00Z")]:
        monkeypatch.setenv("GIT_COMMITTER_DATE", date)
        branch(folder, name, (f"{A}_{name}", TIP))
    merge(folder, "older")
    [(old, new)] = renumbering.renumber(folder, "main")
    assert (old.stem, new.stem) == (f"{A}_newer", f"{B}_newer")


def test_three_branches_become_one_line(folder: Path) -> None:
    for name in ("x", "y", "z"):
        branch(folder, name, (f"{A}_{name}", TIP))
    merge(folder, "x", "y")
    renumbering.renumber(folder, "x")
    history = revisions.read(folder)
    assert [r.number for r in history.tips(SERVICE_LINE)] == [NEXT + 2]
    assert history.by_id[f"{A}_x"].parent == TIP


def test_an_unknown_base_is_an_error_that_says_what_to_set(folder: Path) -> None:
    add(folder, f"{A}_x", TIP)
    add(folder, f"{A}_y", TIP)
    with pytest.raises(RevisionError, match="BASE="):
        renumbering.renumber(folder, "nonsense")


def test_a_release_of_the_platform_adds_a_second_line(folder: Path, postgres: Postgres) -> None:
    database = postgres.database()
    add(folder, f"{A}_tasks", TIP)
    migrate.upgrade(database.owner_url, folder=folder)
    add(folder, "p0001_queue", "0005", table="queue")
    history = revisions.read(folder)
    assert history.heads == (f"{A}_tasks", "p0001_queue")
    assert history.newest(PLATFORM_LINE).id == "p0001_queue"
    before, after = migrate.upgrade(database.owner_url, folder=folder)
    assert (before, after) == (f"{A}_tasks", f"{A}_tasks, p0001_queue")
    file = planning.write(planning.Plan((CHANGE,), ()), folder=folder)
    assert file
    assert file.stem == f"{B}_notes"
    assert f'down_revision = "{A}_tasks"' in file.read_text()


@pytest.mark.parametrize(
    ("applied", "reason"),
    [
        ([], "migrations are behind (none of {A}_tasks, p0001_queue)"),
        ([TIP], "migrations are behind ({TIP} of {A}_tasks, p0001_queue)"),
        ([f"{A}_tasks"], "migrations are behind ({A}_tasks of {A}_tasks, p0001_queue)"),
        ([TIP, "p0001_queue"], "migrations are behind ({TIP}, p0001_queue of"),
        ([f"{B}_more"], "migrations are behind ({B}_more of"),
        (
            [f"{A}_invoices", "p0001_queue"],
            "the database has revision {A}_invoices, which this release does not have",
        ),
        ([f"{A}_tasks", "p0001_queue"], None),
        ([f"{B}_more", "p0001_queue"], None),
        ([f"{A}_tasks", "p0002_more"], None),
        (["9999", "p0001_queue"], None),
    ],
)
def test_a_database_is_behind_ahead_or_of_another_branch(
    folder: Path, applied: list[str], reason: str | None
) -> None:
    add(folder, f"{A}_tasks", TIP)
    add(folder, "p0001_queue", "0005", table="queue")
    history = revisions.read(folder)
    result = history.reason_not_ready(applied)
    if reason is None:
        assert result is None
        assert history.is_ahead(applied) == (set(applied) != set(history.heads))
    else:
        assert (result or "").startswith(reason.format(A=A, B=B, TIP=TIP))


def test_a_database_of_another_branch_is_not_migrated(folder: Path, postgres: Postgres) -> None:
    database = postgres.database()
    file = add(folder, f"{A}_invoices", TIP)
    migrate.upgrade(database.owner_url, folder=folder)
    file.unlink()
    add(folder, f"{A}_tasks", TIP)
    with pytest.raises(MigrationError, match=f"has revision {A}_invoices, which is not in"):
        migrate.upgrade(database.owner_url, folder=folder)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ((r'revision = "\d{4}_x"', 'revision = "other"'), "must contain the line revision"),
        ((r'down_revision = ".*"', 'down_revision = "none"'), "down_revision none does not exist"),
    ],
)
def test_a_revision_file_with_a_wrong_id_is_named(
    folder: Path, change: tuple[str, str], reason: str
) -> None:
    file = add(folder, f"{A}_x", TIP)
    file.write_text(re.sub(*change, file.read_text(), count=1))
    with pytest.raises(RevisionError, match=f"{A}_x.py: {reason}"):
        revisions.read(folder)
