"""The planner: new tables, changes to existing tables, and the changes that it rejects."""

import ast
import json
import os
import shutil
import subprocess
import sys
import time
from copy import deepcopy
from pathlib import Path
from threading import Thread
from typing import Any

import psycopg
import pytest

from db import ids, migrate, revisions
from db.migrate import MigrationError
from db.revisions import SERVICE_LINE
from dev.planner import key_changes, planning, revision
from dev.planner.__main__ import _report
from dev.planner.change import Change, ChangeKind
from evidence.certificate import catalogue
from evidence.harness.processes import ROOT
from openapi import contract
from openapi.contract import Contract, ContractError
from tests.platform.fix_planner import RESOURCES, migrations_copy, plan_and_migrate
from tests.platform.fix_postgres import Database, Postgres
from tests.platform.fix_service import until
from tests.platform.test_migrations import full_snapshot

UUID = {"type": "string", "format": "uuid"}
TEXT = {"type": "string", "minLength": 1, "maxLength": 20, "pattern": "^[a-z ]+$"}
COUNT = {"type": "integer", "minimum": 0, "maximum": 10}
STATE = {"type": "string", "enum": ["open", "closed", "lost"]}
ORGS, BOOK = [ids.new(), ids.new()], ids.new()
Document = dict[str, Any]
Row = dict[str, Any]


def table(name: str, properties: Document, required: list[str], **options: Any) -> Document:
    """Return the schema of a table; `options` are keys of its x-table."""
    return {
        "type": "object",
        "additionalProperties": False,
        "required": ["id", "org_id", *required],
        "x-table": {"name": name, **options},
        "properties": {"id": UUID, "org_id": UUID, **properties},
    }


def notes() -> Document:
    """Return a contract with notes that reference books."""
    columns = {
        "title": TEXT,
        "count": COUNT,
        "state": STATE,
        "due": {"type": "string", "format": "date"},
    }
    references = {"book_id": {"table": "books"}}
    return {
        "openapi": "3.0.3",
        "info": {"title": "Notes", "version": "1.0.0"},
        "x-service": {"name": "notes"},
        "x-acknowledge": {"reason": "projects are not needed"},
        "paths": {},
        "components": {
            "schemas": {
                "Book": table("books", {}, []),
                "Note": table(
                    "notes",
                    deepcopy(columns | {"book_id": UUID | {"nullable": True}}),
                    ["title", "count", "state", "book_id"],
                    unique=[["title"]],
                    references=references,
                    indexes=[["due"]],
                ),
            }
        },
    }


class Stage:
    """A database, and a copy of the migrations that leads to its schema."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.database, self.folder = database, folder

    def contract(self, document: Document) -> Contract:
        file = self.folder / "contract.yaml"
        file.write_text(json.dumps(document, indent=1))
        return contract.load(file, None)

    def apply(self, document: Document) -> Path | None:
        return plan_and_migrate(self.database, self.contract(document), self.folder)

    def rejections(self, document: Document) -> list[str]:
        with pytest.raises(ContractError) as error:
            self.apply(document)
        return [f"{issue.path}: {issue.reason}" for issue in error.value.issues]

    def downgrade(self) -> None:
        """Undo the newest revision."""
        copy = migrations_copy(self.folder)
        migrate.downgrade(self.database.owner_url, "-1", copy)

    def rows(self, columns: str = "title, count, state, due", by: str = "title") -> list[Any]:
        with psycopg.connect(self.database.superuser_url) as superuser:
            query = f"select {columns} from notes order by org_id, {by}"
            return superuser.execute(query).fetchall()

    def insert(self, **columns: Any) -> None:
        """Insert a note as the superuser. Raises `psycopg.Error` if it violates a constraint."""
        row = {"org_id": ORGS[0], "id": ids.new(), "title": "new", "count": 1, "state": "open"}
        row |= columns
        names, values = ", ".join(row), ", ".join(["%s"] * len(row))
        with psycopg.connect(self.database.superuser_url) as superuser:
            superuser.execute(f"insert into notes ({names}) values ({values})", [*row.values()])


@pytest.fixture(scope="module")
def template(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """A stage with the tables of `notes()` and rows of two tenants, which the tests copy."""
    stage = Stage(postgres.database(), tmp_path_factory.mktemp("stage"))
    stage.apply(notes())
    with psycopg.connect(stage.database.superuser_url) as superuser:
        for org in ORGS:
            superuser.execute("insert into organizations (id, name) values (%s, 'A')", (org,))
            superuser.execute("insert into books values (%s, %s)", (org, BOOK))
    for org in ORGS:
        for title, count, state in (("one", 1, "open"), ("two", 2, "closed")):
            stage.insert(org_id=org, title=title, count=count, state=state, book_id=BOOK)
    return stage


@pytest.fixture
def stage(postgres: Postgres, template: Stage, tmp_path: Path) -> Stage:
    shutil.copytree(template.folder, tmp_path, dirs_exist_ok=True)
    return Stage(postgres.database(template=template.database.name), tmp_path)


def note(document: Document) -> Document:
    """Return the schema of notes."""
    schema: Document = document["components"]["schemas"]["Note"]
    return schema


def changed(**properties: Document | None) -> Document:
    """Return the contract with these properties of a note, and without those that are None."""
    document = notes()
    schema = note(document)
    for name, node in properties.items():
        if node is None:
            del schema["properties"][name]
            schema["required"] = [n for n in schema["required"] if n != name]
            schema["x-table"]["indexes"] = []
        else:
            schema["properties"][name] = node
    return document


# New tables


@pytest.mark.parametrize("file", RESOURCES, ids=lambda file: file.stem)
def test_a_contract_becomes_tables_that_pass_every_check(
    postgres: Postgres, tmp_path: Path, file: Path
) -> None:
    database, checked = postgres.database(), contract.load(file, None)
    before = full_snapshot(database.superuser_url)
    revision = plan_and_migrate(database, checked, tmp_path)
    assert revision
    newest = revisions.history().newest(SERVICE_LINE)
    assert revision.name.startswith(f"{newest.number + 1:04d}_")
    with psycopg.connect(database.superuser_url) as superuser:
        assert catalogue.issues(superuser, catalogue.required_privileges(checked)) == set()
    assert _audit_violation(database) is None
    assert plan_and_migrate(database, checked, tmp_path) is None
    migrate.downgrade(database.owner_url, newest.id, migrations_copy(tmp_path))
    assert full_snapshot(database.superuser_url) == before
    migrate.upgrade(database.owner_url, folder=migrations_copy(tmp_path))
    assert planning.plan(checked, database.owner_url).changes == ()


def _audit_violation(database: Database) -> str | None:
    """Return what keeps the service from serving this database, audited in a new process."""
    program = (
        "import asyncio, os, psycopg; from db import security_audit\n"
        "async def main():\n"
        "    async with await psycopg.AsyncConnection.connect(os.environ['URL']) as connection:\n"
        "        print((await security_audit.audit(connection)).violation or '')\n"
        "asyncio.run(main())"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=os.environ | {"URL": database.app_url},
        capture_output=True,
        text=True,
        check=True,
    )
    return result.stdout.strip() or None


def test_a_written_revision_passes_the_linter(postgres: Postgres, tmp_path: Path) -> None:
    versions = tmp_path / "db" / "migrations" / "versions"
    versions.mkdir(parents=True)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for file in RESOURCES:
        (folder := tmp_path / file.stem).mkdir()
        written = plan_and_migrate(postgres.database(), contract.load(file, None), folder)
        assert written
        shutil.copy(written, versions)
    for check in (["format", "--check"], ["check"]):
        ruff = [sys.executable, "-m", "ruff", *check, "db"]
        result = subprocess.run(ruff, cwd=tmp_path, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout


def test_the_migrations_match_the_shipped_contract(database: Database) -> None:
    planned = planning.plan(contract.load(), database.owner_url)
    assert (planned.changes, planned.issues) == ((), ())


def test_a_contract_ahead_of_the_migrations_is_detected(database: Database, tmp_path: Path) -> None:
    document = deepcopy(contract.load().document)
    document["components"]["schemas"]["Project"]["x-table"]["indexes"] = [["created_at"]]
    (ahead := tmp_path / "ahead.yaml").write_text(json.dumps(document))
    planned = planning.plan(contract.load(ahead, None), database.owner_url)
    assert [c.description for c in planned.changes] == ["projects_org_id_created_at_id_idx added"]


def test_planning_leaves_the_database_unchanged(stage: Stage) -> None:
    before = full_snapshot(stage.database.superuser_url)
    document = changed(due=None, extra=COUNT)
    note(document)["x-table"]["renamed"] = {"heading": "title"}
    note(document)["properties"]["heading"] = note(document)["properties"].pop("title")
    note(document)["required"][2] = "heading"
    note(document)["x-table"] |= {"unique": [["heading"]], "indexes": []}
    planning.plan(stage.contract(document), stage.database.owner_url)
    assert full_snapshot(stage.database.superuser_url) == before


# Each kind of change, on a table with rows


def with_self_reference(document: Document) -> Document:
    note(document)["x-table"]["references"]["next_id"] = {"table": "notes", "on_delete": "cascade"}
    return document


def with_options(document: Document, **options: Any) -> Document:
    """Change keys of the x-table of notes."""
    note(document)["x-table"] |= options
    return document


def with_required(document: Document, *names: str) -> Document:
    note(document)["required"] += names
    return document


@pytest.mark.parametrize(
    ("document", "invalid_row", "message"),
    [
        pytest.param(changed(extra=TEXT), {"extra": "A"}, "notes_extra_pattern", id="add"),
        pytest.param(
            with_required(changed(extra=STATE | {"default": "open"}), "extra"),
            {"extra": "ajar"},
            "notes_extra_check",
            id="add-with-default",
        ),
        pytest.param(
            with_self_reference(changed(next_id=UUID | {"nullable": True})),
            {"next_id": ids.new()},
            "notes_org_id_next_id_fkey",
            id="add-reference",
        ),
        pytest.param(
            changed(title=TEXT | {"maxLength": 40}), {"title": "a" * 41}, "title_check", id="longer"
        ),
        pytest.param(
            changed(count={"type": "integer", "minimum": -5, "maximum": 10}),
            {"count": -6},
            "notes_count_check",
            id="lower",
        ),
        pytest.param(
            changed(state={"type": "string", "enum": ["it's", "closed", "open", "lost"]}),
            {"state": "ajar"},
            "notes_state_check",
            id="more-values",
        ),
        pytest.param(
            changed(due={"type": "string", "format": "date", "default": "2026-01-01"}),
            {"due": "2026-02-30"},
            "date/time",
            id="default",
        ),
        pytest.param(
            with_options(notes(), unique=[["title"], ["state", "count"]]),
            {"count": 1, "state": "open"},
            "notes_org_id_state_count_key",
            id="unique",
        ),
        pytest.param(
            with_options(notes(), unique=[], indexes=[["due"], ["state", "count"]]),
            None,
            None,
            id="keys",
        ),
        pytest.param(
            with_options(
                notes(), references={"book_id": {"table": "books", "on_delete": "cascade"}}
            ),
            {"book_id": ids.new()},
            "notes_org_id_book_id_fkey",
            id="on-delete",
        ),
        pytest.param(with_options(notes(), references={}, indexes=[]), None, None, id="fewer"),
    ],
)
def test_a_lossless_change_is_applied_and_undone(
    stage: Stage, document: Document, invalid_row: Row | None, message: str | None
) -> None:
    before, rows = full_snapshot(stage.database.superuser_url), stage.rows()
    assert stage.apply(document)
    assert stage.rows() == rows
    assert stage.apply(document) is None
    if invalid_row is not None:
        with pytest.raises(psycopg.Error, match=message):
            stage.insert(**invalid_row)
    assert _is_forced(stage)
    stage.downgrade()
    assert full_snapshot(stage.database.superuser_url) == before
    assert stage.rows() == rows


def _is_forced(stage: Stage) -> bool:
    with psycopg.connect(stage.database.superuser_url) as superuser:
        query = "select relforcerowsecurity from pg_class where relname = 'notes'"
        return superuser.execute(query).fetchone() == (True,)


def test_a_wider_check_accepts_more_values(stage: Stage) -> None:
    wide = {
        "title": TEXT | {"maxLength": 40},
        "state": {"type": "string", "enum": ["x", "open", "closed", "lost"]},
    }
    stage.apply(changed(**wide))
    stage.insert(title="a" * 40, state="x")


def test_text_that_looks_like_a_bind_parameter_is_stored_as_written(
    stage: Stage,
) -> None:
    odd = {"type": "string", "maxLength": 20, "pattern": r"^(?:%s|:b|\d\.:c)*$"}
    texts = ["%(a)s", ":b", ":b:c", "\\:b", "\\: ", "c::d", "e\\", "f\n  '\\\r\x85\u2028:g", "\n:"]
    value = {"type": "string", "enum": texts, "default": texts[-2]}
    assert stage.apply(changed(odd=odd, value=value))
    assert stage.apply(changed(odd=odd, value=value)) is None
    for text in texts:
        stage.insert(title="new", odd="%s:b1.:c", value=text)
        with psycopg.connect(stage.database.superuser_url) as superuser:
            superuser.execute("delete from notes where title = 'new'")
    stage.apply(changed(odd=odd, value=value | {"default": ":b"}))
    stage.downgrade()
    stage.insert(title="new")
    with psycopg.connect(stage.database.superuser_url) as superuser:
        row = superuser.execute("select value from notes where title = 'new'").fetchone()
        superuser.execute("delete from notes where title = 'new'")
    assert row == (value["default"],)


def test_empty_values_of_a_newly_required_column_become_its_default(stage: Stage) -> None:
    due = {"type": "string", "format": "date", "default": "2026-01-31"}
    stage.insert(due="2026-05-05")
    file = stage.apply(with_required(changed(due=due), "due"))
    assert file
    assert "no force row level security" in file.read_text()
    assert [str(row[0]) for row in stage.rows("due")].count("2026-01-31") == 4
    assert _is_forced(stage)
    with pytest.raises(psycopg.errors.NotNullViolation):
        stage.insert(title="x", due=None)
    stage.downgrade()
    stage.insert(title="x", due=None)


def test_a_backfill_that_misses_rows_changes_nothing(stage: Stage) -> None:
    due = {"type": "string", "format": "date", "default": "2026-01-31"}
    checked = stage.contract(with_required(changed(due=due), "due"))
    planned = planning.plan(checked, stage.database.owner_url)
    file = planning.write(planned, folder=migrations_copy(stage.folder))
    assert file
    file.write_text(file.read_text().replace("no force row", "force row"))
    with pytest.raises(MigrationError, match="contains null values"):
        migrate.upgrade(stage.database.owner_url, folder=migrations_copy(stage.folder))
    assert stage.rows("due") == [(None,)] * 4


# Changes that could lose data


LOSSES = [
    pytest.param(changed(due=None), "due", "the column `due` would be dropped", id="drop"),
    pytest.param(changed(title=TEXT | {"maxLength": 3}), "title", "narrower", id="shorter"),
    pytest.param(changed(count=COUNT | {"maximum": 2}), "count", "narrower", id="lower"),
    pytest.param(
        changed(state={"type": "string", "enum": ["open", "closed"]}),
        "state",
        "narrower",
        id="fewer-values",
    ),
    pytest.param(changed(title=TEXT | {"pattern": "^[a-z]+$"}), "title", "narrower", id="pattern"),
    pytest.param(
        changed(count={"type": "number", "minimum": 0, "maximum": 10}),
        "count",
        "would change from bigint to double precision",
        id="type",
    ),
    pytest.param(
        with_required(changed(extra=COUNT), "extra"), "extra", "no default", id="required"
    ),
    pytest.param(with_required(notes(), "due"), "due", "may have no value", id="not-null"),
]


@pytest.mark.parametrize(("document", "column", "reason"), LOSSES)
def test_a_possible_loss_is_rejected_with_its_line_before_anything_is_written(
    stage: Stage, document: Document, column: str, reason: str
) -> None:
    before, files = full_snapshot(stage.database.superuser_url), [*stage.folder.rglob("*.py")]
    with pytest.raises(ContractError) as error:
        stage.apply(document)
    (issue,) = error.value.issues
    lines = (stage.folder / "contract.yaml").read_text().split("\n")
    is_property = column in note(document)["properties"]
    assert reason in issue.reason
    assert lines[issue.line - 1].strip() == (f'"{column}": {{' if is_property else '"Note": {')
    assert "x-acknowledge" in issue.reason
    assert full_snapshot(stage.database.superuser_url) == before
    assert [*stage.folder.rglob("*.py")] == files


@pytest.mark.parametrize(("document", "column", "reason"), LOSSES)
def test_an_acknowledged_loss_is_applied_if_the_rows_fit(
    stage: Stage, document: Document, column: str, reason: str
) -> None:
    document = deepcopy(document)
    node = note(document)["properties"].get(column, note(document))
    node["x-acknowledge"] = {"reason": f"{column} was never needed"}
    if column in ("extra", "due") and column in note(document)["properties"]:
        with pytest.raises(MigrationError):  # rows have no value
            stage.apply(document)
    else:
        assert stage.apply(document)
        assert stage.apply(document) is None
        stage.downgrade()
        assert len(stage.rows()) == 4


def test_an_acknowledgement_on_the_schema_covers_only_the_column_it_names(stage: Stage) -> None:
    document = changed(due=None)
    note(document)["x-acknowledge"] = {"reason": "nobody wants the undue"}
    assert "dropped" in stage.rejections(document)[0]
    note(document)["x-acknowledge"] = {"reason": "nobody is ever due"}
    assert stage.apply(document)


def test_rows_that_do_not_fit_fail_a_narrower_check_and_keep_their_values(stage: Stage) -> None:
    stage.insert(title="longer")
    document = changed(title=TEXT | {"maxLength": 3, "x-acknowledge": {"reason": "they all fit"}})
    with pytest.raises(MigrationError, match="notes_title_check"):
        stage.apply(document)
    assert ("longer", 1, "open", None) in stage.rows()
    with psycopg.connect(stage.database.superuser_url) as superuser:
        superuser.execute("delete from notes where title = 'longer'")
    migrate.upgrade(stage.database.owner_url, folder=migrations_copy(stage.folder))
    assert stage.apply(document) is None


def test_duplicate_rows_fail_a_unique_key_until_they_are_deleted(stage: Stage) -> None:
    stage.insert(title="three", state="open", count=1)
    document = with_options(notes(), unique=[["title"], ["state", "count"]])
    with pytest.raises(MigrationError, match="could not create unique index"):
        stage.apply(document)
    with psycopg.connect(stage.database.superuser_url) as superuser:
        superuser.execute("delete from notes where title = 'three'")
    migrate.upgrade(stage.database.owner_url, folder=migrations_copy(stage.folder))
    assert stage.apply(document) is None


def test_a_renamed_column_keeps_its_values(stage: Stage) -> None:
    document = notes()
    schema = note(document)
    names = ["heading" if name == "title" else name for name in schema["properties"]]
    schema["properties"] = dict(zip(names, schema["properties"].values(), strict=True))
    schema["required"][2] = "heading"
    schema["x-table"]["unique"] = [["heading"]]
    reasons = " ".join(stage.rejections(document))
    assert "the column `title` would be dropped" in reasons
    assert "no default" in reasons
    schema["x-table"]["renamed"] = {"heading": "title"}
    before = full_snapshot(stage.database.superuser_url)
    file = stage.apply(document)
    assert file
    assert "drop column" not in file.read_text()
    assert [row[0] for row in stage.rows("heading", "heading")] == ["one", "two"] * 2
    assert stage.apply(document) is None
    stage.downgrade()
    assert full_snapshot(stage.database.superuser_url) == before


def test_removed_tables_are_dropped_if_the_root_acknowledges_them_by_name(stage: Stage) -> None:
    document = notes()
    del document["components"]["schemas"]["Note"]
    (reason,) = stage.rejections(document)
    assert "the table `notes` is in neither the contract nor dev/planner/platform_tables" in reason
    document["components"]["schemas"] = {}
    document["x-acknowledge"]["reason"] = "notes and books are kept elsewhere now"
    before = full_snapshot(stage.database.superuser_url)
    assert stage.apply(document)
    stage.downgrade()
    assert full_snapshot(stage.database.superuser_url) == before
    assert stage.rows() == []


def test_tables_with_circular_foreign_keys_are_created_but_not_dropped(
    postgres: Postgres, tmp_path: Path
) -> None:
    stage, nullable = Stage(postgres.database(), tmp_path), UUID | {"nullable": True}
    circle = notes()
    circle["x-acknowledge"]["reason"] = "projects, hens and eggs are not needed"
    circle["components"]["schemas"] = {
        "Hen": table("hens", {"egg_id": nullable}, [], references={"egg_id": {"table": "eggs"}}),
        "Egg": table("eggs", {"hen_id": nullable}, [], references={"hen_id": {"table": "hens"}}),
    }
    before = full_snapshot(stage.database.superuser_url)
    assert stage.apply(circle)
    assert stage.apply(circle) is None
    empty = circle | {"components": {"schemas": {}}}
    assert "part of a circular foreign-key chain" in stage.rejections(empty)[0]
    stage.downgrade()
    assert full_snapshot(stage.database.superuser_url) == before


def test_the_invalid_index_of_a_failed_build_is_dropped_with_its_key(stage: Stage) -> None:
    stage.insert(title="three", state="open", count=1)
    with pytest.raises(MigrationError, match="could not create unique index"):
        stage.apply(with_options(notes(), unique=[["title"], ["state", "count"]]))
    copy = migrations_copy(stage.folder)
    revisions.read(copy).newest(SERVICE_LINE).file.unlink()
    file = stage.apply(notes())
    assert file
    assert "drop index concurrently if exists notes_org_id_state_count_new" in file.read_text()
    assert stage.apply(notes()) is None


def test_a_dropped_table_is_recreated_without_the_invalid_index_of_a_failed_build(
    stage: Stage,
) -> None:
    stage.insert(title="three", state="open", count=1)
    with pytest.raises(MigrationError, match="could not create unique index"):
        stage.apply(with_options(notes(), unique=[["title"], ["state", "count"]]))
    document = notes()
    del document["components"]["schemas"]["Note"]
    document["x-acknowledge"]["reason"] = "projects and notes are not needed"
    copy = migrations_copy(stage.folder)
    revisions.read(copy).newest(SERVICE_LINE).file.unlink()
    assert stage.apply(document)
    stage.downgrade()
    assert stage.apply(notes()) is None


@pytest.mark.parametrize(
    ("old", "new", "wider"),
    [
        ("CHECK ((char_length(x) <= 9))", "CHECK ((char_length(x) <= 10))", True),
        ("CHECK ((char_length(x) <= 10))", "CHECK ((char_length(x) <= 9))", False),
        (
            "CHECK (((char_length(x) >= 1) AND (char_length(x) <= 9)))",
            "CHECK ((char_length(x) <= 9))",
            True,
        ),
        (
            "CHECK ((char_length(x) <= 9))",
            "CHECK (((char_length(x) >= 1) AND (char_length(x) <= 9)))",
            False,
        ),
        ("CHECK ((x > 0))", "CHECK ((x >= 0))", True),
        ("CHECK ((x >= 0))", "CHECK ((x > 0))", False),
        ("CHECK ((x >= 0))", "CHECK ((x >= '-5'::integer))", True),
        ("CHECK ((x >= '-5'::integer))", "CHECK ((x >= 0))", False),
        (
            "CHECK ((x <= ('0.5'::numeric)::double precision))",
            "CHECK ((x < ('0.5'::numeric)::double precision))",
            False,
        ),
        ("CHECK ((x <= 1))", "CHECK ((char_length(x) <= 5))", False),
        ("CHECK ((x = 'a'::text))", "CHECK ((x = ANY (ARRAY['b'::text, 'a'::text])))", True),
        ("CHECK ((x = ANY (ARRAY['b'::text, 'a'::text])))", "CHECK ((x = 'a'::text))", False),
        ("CHECK ((x = ANY (ARRAY[1, 2])))", "CHECK ((x = ANY (ARRAY[1, 2, 3])))", True),
        ("CHECK ((x = 'it''s'::text))", "CHECK ((x = ANY (ARRAY['it'::text, 's'::text])))", False),
        ("CHECK ((x = 'a'::text))", "CHECK ((char_length(x) <= 9))", False),
        ("CHECK ((x ~ '^a$'::text))", "CHECK ((x ~ '^a*$'::text))", False),
        (
            "CHECK ((jsonb_typeof(x) = 'array'::text))",
            "CHECK ((jsonb_typeof(x) = 'object'::text))",
            False,
        ),
    ],
)
def test_a_check_is_wider_only_if_that_is_certain(old: str, new: str, wider: bool) -> None:
    assert key_changes.is_wider(old, new) is wider


# Grants, locks and the command


def test_the_grants_match_the_operations(postgres: Postgres, tmp_path: Path) -> None:
    file = next(file for file in RESOURCES if file.stem == "ticket_desk")
    checked, database = contract.load(file, None), postgres.database()
    plan_and_migrate(database, checked, tmp_path)
    document = deepcopy(checked.document)
    row = document["paths"]["/orgs/{org_id}/tickets/{ticket_id}"]
    for method in ("put", "patch", "delete"):
        del row[method]
    created = document["paths"]["/orgs/{org_id}/tickets"]["post"]["responses"]["201"]
    del created["links"]
    (file := tmp_path / "fewer.yaml").write_text(json.dumps(document))
    fewer = contract.load(file, None)
    written = plan_and_migrate(database, fewer, tmp_path)
    assert written
    assert "revoke update, delete on tickets from covenant_app" in written.read_text()
    with psycopg.connect(database.superuser_url) as superuser:
        assert catalogue.issues(superuser, catalogue.required_privileges(fewer)) == set()
    plan_and_migrate(database, checked, tmp_path)
    with psycopg.connect(database.superuser_url) as superuser:
        assert catalogue.issues(superuser, catalogue.required_privileges(checked)) == set()


def test_a_dropped_column_that_may_have_been_renamed_gets_a_hint(stage: Stage) -> None:
    document = changed(title=None, heading=TEXT, size=COUNT)
    (rejection,) = stage.rejections(with_options(document, unique=[]))
    assert "If `heading` is its new name, write `renamed: {heading: title}`" in rejection
    assert "size" not in rejection


def test_a_table_has_the_additional_grants_of_its_x_table(stage: Stage) -> None:
    document = with_options(notes(), grants=["insert"])
    written = stage.apply(document)
    assert written
    assert "grant insert on notes to covenant_app" in written.read_text()
    with psycopg.connect(stage.database.superuser_url) as superuser:
        needed = catalogue.required_privileges(stage.contract(document))
        assert not [fault for fault in catalogue.issues(superuser, needed) if "notes" in fault]
    written = stage.apply(notes())
    assert written
    assert "revoke insert on notes from covenant_app" in written.read_text()


def test_a_revision_starts_over_after_a_lock_timeout(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new column already exists when the foreign key waits for a writer of books."""
    monkeypatch.setattr(migrate, "RETRY_SECONDS", 0.05)
    attempts, alembic_config = [], migrate._alembic_config

    def count(*arguments: Any) -> Any:
        attempts.append(arguments)
        return alembic_config(*arguments)

    monkeypatch.setattr(migrate, "_alembic_config", count)
    document = changed(next_id=UUID | {"nullable": True}, extra=COUNT)
    note(document)["x-table"]["references"]["next_id"] = {"table": "books"}
    with psycopg.connect(stage.database.superuser_url) as writer:
        writer.execute("insert into books values (%s, gen_random_uuid())", (ORGS[0],))
        migration = Thread(target=stage.apply, args=(document,))
        migration.start()
        until(lambda: len(attempts) > 2)
        writer.rollback()
        migration.join(30)
    assert stage.apply(document) is None


def test_an_index_build_waits_for_a_long_transaction(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The build waits longer than the lock timeout of other statements."""
    monkeypatch.setattr(migrate, "MAX_ATTEMPTS", 1)
    waiting = f"""select from pg_stat_activity where datname = current_database()
        and query like '%create index concurrently%' and pid <> pg_backend_pid()
        and now() - query_start > interval '{migrate.LOCK_TIMEOUT_MS + 200} ms'"""
    document = with_options(notes(), indexes=[["due"], ["count"]])
    with psycopg.connect(stage.database.superuser_url) as writer:
        writer.execute("update notes set count = count + 1")
        migration = Thread(target=stage.apply, args=(document,))
        migration.start()
        with psycopg.connect(stage.database.superuser_url, autocommit=True) as superuser:
            until(lambda: superuser.execute(waiting).rowcount == 1)
        writer.commit()
        migration.join(30)
    assert stage.apply(document) is None


def test_a_check_is_validated_without_blocking_writers(stage: Stage) -> None:
    file = stage.apply(changed(title=TEXT | {"maxLength": 40}))
    assert file
    text = file.read_text()
    assert text.index("not valid") < text.index("validate constraint")
    assert "autocommit_block" in text


def command(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "dev.planner", *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_command_reports_that_migrations_are_up_to_date(database: Database) -> None:
    result = command(MIGRATION_DATABASE_URL=database.owner_url)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == "Migrations are up to date.\n"


def test_the_command_rejects_a_database_that_is_behind(postgres: Postgres) -> None:
    behind = postgres.database(migrated=False)
    result = command(MIGRATION_DATABASE_URL=behind.owner_url)
    assert result.returncode == 1
    assert result.stderr == "the database is not at the newest revision: run make migrate first\n"


def test_a_check_reads_the_migrations_and_not_the_configured_database() -> None:
    start = time.monotonic()
    result = command("--check", MIGRATION_DATABASE_URL="postgresql://nobody@127.0.0.1:1/none")
    assert (result.returncode, result.stderr) == (0, "")
    assert time.monotonic() - start < 20


def test_a_name_that_is_not_snake_case_is_rejected() -> None:
    result = command("--name", "Add-Tasks")
    assert result.returncode == 2
    assert "--name: must be snake_case, at most 27 characters" in result.stderr


def test_a_check_lists_the_missing_changes_and_the_issues(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    checked = stage.contract(changed(due=None, size=COUNT))
    assert _report(planning.plan(checked, stage.database.owner_url)) == 1
    lines = capsys.readouterr().err.splitlines()
    assert "  notes: size added" in lines
    assert [line for line in lines if line.startswith("rejected: ") and "`due`" in line]


@pytest.mark.parametrize(
    ("changes", "docstring"),
    [
        ([("tasks", ChangeKind.CREATE, "created")] * 2, "Create tasks."),
        (
            [(name, ChangeKind.CREATE, "created") for name in ("hens", "eggs", "nests")],
            "Create hens, eggs and nests.",
        ),
        ([("notes", ChangeKind.ALTER, "due dropped")], "Notes: due dropped."),
        (
            [("notes", ChangeKind.ALTER, "due dropped"), ("tags", ChangeKind.CREATE, "created")],
            "Change notes and tags.\n\nNotes: due dropped.\nTags: created.\n",
        ),
    ],
)
def test_the_docstring_of_a_revision_says_what_changes(
    changes: list[tuple[str, ChangeKind, str]], docstring: str
) -> None:
    rendered = revision.render(
        "0002_x",
        "0001",
        [Change(table, text, ("select 1",), (), kind=kind) for table, kind, text in changes],
    )
    assert ast.get_docstring(ast.parse(rendered.text), clean=False) == docstring


@pytest.mark.parametrize(
    "statement",
    [
        'alter table t\n    alter c set default \'x""" + str(1/0) + """\'',
        "alter table t alter c set default '\"'",
        "alter table t alter c set default 'x\\d\"'",
    ],
)
def test_no_value_of_the_contract_ends_a_string_literal_of_the_revision(statement: str) -> None:
    written = revision._execute(statement, 4).strip()
    call = ast.parse(written).body[0]
    assert isinstance(call, ast.Expr)
    assert isinstance(call.value, ast.Call)
    [text] = call.value.args
    assert ast.literal_eval(text).split() == statement.split()
