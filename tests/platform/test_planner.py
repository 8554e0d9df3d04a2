"""What the planner writes: from nothing, from one contract to the next, and what it refuses."""

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
from dev.planner import key_changes, planning, revision
from evidence.certificate import catalogue
from evidence.harness.processes import ROOT
from openapi import contract
from openapi.contract import Contract, ContractError
from tests.platform.fix_planner import RESOURCES, bring_up, migrations
from tests.platform.fix_postgres import Database, Postgres
from tests.platform.fix_service import until
from tests.platform.test_migrations import everything

UUID = {"type": "string", "format": "uuid"}
TEXT = {"type": "string", "minLength": 1, "maxLength": 20, "pattern": "^[a-z ]+$"}
COUNT = {"type": "integer", "minimum": 0, "maximum": 10}
STATE = {"type": "string", "enum": ["open", "closed", "lost"]}
ORGS, BOOK = [ids.new(), ids.new()], ids.new()
Document = dict[str, Any]
Row = dict[str, Any]


def table(name: str, properties: Document, required: list[str], **words: Any) -> Document:
    return {
        "type": "object",
        "additionalProperties": False,
        "required": ["id", "org_id", *required],
        "x-table": {"name": name, **words},
        "properties": {"id": UUID, "org_id": UUID, **properties},
    }


def notes() -> Document:
    """A contract of notes in books."""
    own = {
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
                    deepcopy(own | {"book_id": UUID | {"nullable": True}}),
                    ["title", "count", "state", "book_id"],
                    unique=[["title"]],
                    references=references,
                    indexes=[["due"]],
                ),
            }
        },
    }


class Stage:
    """A database with rows of two tenants, and the revisions that lead to it."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.database, self.folder = database, folder

    def contract(self, document: Document) -> Contract:
        file = self.folder / "contract.yaml"
        file.write_text(json.dumps(document, indent=1))
        return contract.load(file, None)

    def bring_up(self, document: Document) -> Path | None:
        return bring_up(self.database, self.contract(document), self.folder)

    def refused(self, document: Document) -> list[str]:
        with pytest.raises(ContractError) as refusal:
            self.bring_up(document)
        return [f"{fault.where}: {fault.reason}" for fault in refusal.value.faults]

    def down(self) -> None:
        copy = migrations(self.folder)
        migrate.downgrade(self.database.owner_url, f"{int(revisions.newest(copy)) - 1:04d}", copy)

    def rows(self, what: str = "title, count, state, due", by: str = "title") -> list[Any]:
        with psycopg.connect(self.database.superuser_url) as superuser:
            return superuser.execute(f"select {what} from notes order by org_id, {by}").fetchall()

    def insert(self, **columns: Any) -> None:
        """Insert a note as the superuser. Raises what a constraint says of it."""
        row = {"org_id": ORGS[0], "id": ids.new(), "title": "new", "count": 1, "state": "open"}
        row |= columns
        names, values = ", ".join(row), ", ".join(["%s"] * len(row))
        with psycopg.connect(self.database.superuser_url) as superuser:
            superuser.execute(f"insert into notes ({names}) values ({values})", [*row.values()])


@pytest.fixture(scope="module")
def filled(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """The stage that every test has a copy of."""
    made = Stage(postgres.database(), tmp_path_factory.mktemp("stage"))
    made.bring_up(notes())
    with psycopg.connect(made.database.superuser_url) as superuser:
        for org in ORGS:
            superuser.execute("insert into organizations (id, name) values (%s, 'A')", (org,))
            superuser.execute("insert into books values (%s, %s)", (org, BOOK))
    for org in ORGS:
        for title, count, state in (("one", 1, "open"), ("two", 2, "closed")):
            made.insert(org_id=org, title=title, count=count, state=state, book_id=BOOK)
    return made


@pytest.fixture
def stage(postgres: Postgres, filled: Stage, tmp_path: Path) -> Stage:
    shutil.copytree(filled.folder, tmp_path, dirs_exist_ok=True)
    return Stage(postgres.database(template=filled.database.name), tmp_path)


def note(document: Document) -> Document:
    found: Document = document["components"]["schemas"]["Note"]
    return found


def changed(**properties: Document | None) -> Document:
    """The contract with these properties of a note, or without those that are None."""
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


# From nothing


@pytest.mark.parametrize("file", RESOURCES, ids=lambda file: file.stem)
def test_a_contract_becomes_tables_that_keep_every_rule(
    postgres: Postgres, tmp_path: Path, file: Path
) -> None:
    database, checked = postgres.database(), contract.load(file, None)
    before = everything(database.superuser_url)
    revision = bring_up(database, checked, tmp_path)
    assert revision
    assert revision.name.startswith(f"{int(revisions.head()) + 1:04d}_")
    with psycopg.connect(database.superuser_url) as superuser:
        assert catalogue.issues(superuser, catalogue.required_privileges(checked)) == set()
    assert _examined(database) is None
    assert bring_up(database, checked, tmp_path) is None
    migrate.downgrade(database.owner_url, revisions.head(), migrations(tmp_path))
    assert everything(database.superuser_url) == before
    migrate.upgrade(database.owner_url, folder=migrations(tmp_path))
    assert planning.plan(checked, database.owner_url).changes == ()


def _examined(database: Database) -> str | None:
    """Return what the service, in an event loop of its own, has against the database."""
    program = (
        "import asyncio, os, psycopg; from db import security_audit\n"
        "async def main():\n"
        "    connection = await psycopg.AsyncConnection.connect(os.environ['URL'])\n"
        "    async with connection: print((await security_audit.audit(connection)).refusal or '')\n"
        "asyncio.run(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=os.environ | {"URL": database.app_url},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip() or None


def test_what_is_written_passes_the_lint(postgres: Postgres, tmp_path: Path) -> None:
    versions = tmp_path / "db" / "migrations" / "versions"
    versions.mkdir(parents=True)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for file in RESOURCES:
        (folder := tmp_path / file.stem).mkdir()
        made = bring_up(postgres.database(), contract.load(file, None), folder)
        assert made
        shutil.copy(made, versions)
    for check in (["format", "--check"], ["check"]):
        ruff = [sys.executable, "-m", "ruff", *check, "db"]
        done = subprocess.run(ruff, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


def test_the_migrations_are_what_the_shipped_contract_says(database: Database) -> None:
    planned = planning.plan(contract.load(), database.owner_url)
    assert (planned.changes, planned.refused) == ((), ())


def test_a_contract_that_is_ahead_of_the_migrations_is_found(
    database: Database, tmp_path: Path
) -> None:
    document = deepcopy(contract.load().document)
    document["components"]["schemas"]["Project"]["x-table"]["indexes"] = [["created_at"]]
    (ahead := tmp_path / "ahead.yaml").write_text(json.dumps(document))
    planned = planning.plan(contract.load(ahead, None), database.owner_url)
    assert [c.what for c in planned.changes] == ["projects_org_id_created_at_id_idx added"]


def test_nothing_of_a_plan_remains_in_the_database(stage: Stage) -> None:
    before = everything(stage.database.superuser_url)
    document = changed(due=None, extra=COUNT)
    note(document)["x-table"]["renamed"] = {"heading": "title"}
    note(document)["properties"]["heading"] = note(document)["properties"].pop("title")
    note(document)["required"][2] = "heading"
    note(document)["x-table"] |= {"unique": [["heading"]], "indexes": []}
    planning.plan(stage.contract(document), stage.database.owner_url)
    assert everything(stage.database.superuser_url) == before


# Changes of each kind, on a table with rows


def refers(document: Document) -> Document:
    note(document)["x-table"]["references"]["next_id"] = {"table": "notes", "on_delete": "cascade"}
    return document


def words(document: Document, **others: Any) -> Document:
    note(document)["x-table"] |= others
    return document


def requiring(document: Document, *names: str) -> Document:
    note(document)["required"] += names
    return document


@pytest.mark.parametrize(
    ("document", "row", "fault"),
    [
        pytest.param(changed(extra=TEXT), {"extra": "A"}, "notes_extra_pattern", id="add"),
        pytest.param(
            requiring(changed(extra=STATE | {"default": "open"}), "extra"),
            {"extra": "ajar"},
            "notes_extra_check",
            id="add-with-default",
        ),
        pytest.param(
            refers(changed(next_id=UUID | {"nullable": True})),
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
            words(notes(), unique=[["title"], ["state", "count"]]),
            {"count": 1, "state": "open"},
            "notes_org_id_state_count_key",
            id="unique",
        ),
        pytest.param(
            words(notes(), unique=[], indexes=[["due"], ["state", "count"]]), None, None, id="keys"
        ),
        pytest.param(
            words(notes(), references={"book_id": {"table": "books", "on_delete": "cascade"}}),
            {"book_id": ids.new()},
            "notes_org_id_book_id_fkey",
            id="on-delete",
        ),
        pytest.param(words(notes(), references={}, indexes=[]), None, None, id="fewer"),
    ],
)
def test_what_loses_nothing_is_done_at_once_and_undone(
    stage: Stage, document: Document, row: Row | None, fault: str | None
) -> None:
    whole, rows = everything(stage.database.superuser_url), stage.rows()
    assert stage.bring_up(document)
    assert stage.rows() == rows
    assert stage.bring_up(document) is None
    if row is not None:
        with pytest.raises(psycopg.Error, match=fault):
            stage.insert(**row)
    assert _is_forced(stage)
    stage.down()
    assert everything(stage.database.superuser_url) == whole
    assert stage.rows() == rows


def _is_forced(stage: Stage) -> bool:
    with psycopg.connect(stage.database.superuser_url) as superuser:
        query = "select relforcerowsecurity from pg_class where relname = 'notes'"
        return superuser.execute(query).fetchone() == (True,)


def test_what_is_wider_takes_what_was_refused(stage: Stage) -> None:
    wide = {
        "title": TEXT | {"maxLength": 40},
        "state": {"type": "string", "enum": ["x", "open", "closed", "lost"]},
    }
    stage.bring_up(changed(**wide))
    stage.insert(title="a" * 40, state="x")


def test_what_sqlalchemy_or_psycopg_would_take_for_a_parameter_arrives_as_written(
    stage: Stage,
) -> None:
    odd = {"type": "string", "maxLength": 20, "pattern": r"^(?:%s|:b|\d\.:c)*$"}
    texts = ["%(a)s", ":b", ":b:c", "\\:b", "\\: ", "c::d", "e\\", "f\n  '\\\r\x85\u2028:g", "\n:"]
    value = {"type": "string", "enum": texts, "default": texts[-2]}
    assert stage.bring_up(changed(odd=odd, value=value))
    assert stage.bring_up(changed(odd=odd, value=value)) is None
    for text in texts:
        stage.insert(title="new", odd="%s:b1.:c", value=text)
        with psycopg.connect(stage.database.superuser_url) as superuser:
            superuser.execute("delete from notes where title = 'new'")
    stage.bring_up(changed(odd=odd, value=value | {"default": ":b"}))
    stage.down()
    stage.insert(title="new")
    with psycopg.connect(stage.database.superuser_url) as superuser:
        found = superuser.execute("select value from notes where title = 'new'").fetchone()
        superuser.execute("delete from notes where title = 'new'")
    assert found == (value["default"],)


def test_a_column_that_is_required_gets_its_default_where_it_was_empty(stage: Stage) -> None:
    due = {"type": "string", "format": "date", "default": "2026-01-31"}
    stage.insert(due="2026-05-05")
    file = stage.bring_up(requiring(changed(due=due), "due"))
    assert file
    assert "no force row level security" in file.read_text()
    assert [str(row[0]) for row in stage.rows("due")].count("2026-01-31") == 4
    assert _is_forced(stage)
    with pytest.raises(psycopg.errors.NotNullViolation):
        stage.insert(title="x", due=None)
    stage.down()
    stage.insert(title="x", due=None)


def test_a_backfill_that_does_not_see_every_row_changes_nothing(stage: Stage) -> None:
    due = {"type": "string", "format": "date", "default": "2026-01-31"}
    checked = stage.contract(requiring(changed(due=due), "due"))
    planned = planning.plan(checked, stage.database.owner_url)
    file = planning.write(planned, folder=migrations(stage.folder))
    assert file
    file.write_text(file.read_text().replace("no force row", "force row"))
    with pytest.raises(MigrationError, match="contains null values"):
        migrate.upgrade(stage.database.owner_url, folder=migrations(stage.folder))
    assert stage.rows("due") == [(None,)] * 4


# What could lose something


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
    pytest.param(requiring(changed(extra=COUNT), "extra"), "extra", "no default", id="required"),
    pytest.param(requiring(notes(), "due"), "due", "may have no value", id="not-null"),
]


@pytest.mark.parametrize(("document", "column", "reason"), LOSSES)
def test_a_loss_is_refused_with_its_line_before_anything_is_written(
    stage: Stage, document: Document, column: str, reason: str
) -> None:
    before, files = everything(stage.database.superuser_url), [*stage.folder.rglob("*.py")]
    with pytest.raises(ContractError) as refusal:
        stage.bring_up(document)
    (fault,) = refusal.value.faults
    lines = (stage.folder / "contract.yaml").read_text().split("\n")
    is_there = column in note(document)["properties"]
    assert reason in fault.reason
    assert lines[fault.line - 1].strip() == (f'"{column}": {{' if is_there else '"Note": {')
    assert "x-acknowledge" in fault.reason
    assert everything(stage.database.superuser_url) == before
    assert [*stage.folder.rglob("*.py")] == files


@pytest.mark.parametrize(("document", "column", "reason"), LOSSES)
def test_a_loss_that_is_acknowledged_is_done_where_the_rows_fit(
    stage: Stage, document: Document, column: str, reason: str
) -> None:
    document = deepcopy(document)
    node = note(document)["properties"].get(column, note(document))
    node["x-acknowledge"] = {"reason": f"{column} was never needed"}
    if column in ("extra", "due") and column in note(document)["properties"]:
        with pytest.raises(MigrationError):  # rows have no value, and none is made up
            stage.bring_up(document)
    else:
        assert stage.bring_up(document)
        assert stage.bring_up(document) is None
        stage.down()
        assert len(stage.rows()) == 4


def test_an_acknowledgement_of_the_schema_covers_only_the_column_that_it_names(
    stage: Stage,
) -> None:
    document = changed(due=None)
    note(document)["x-acknowledge"] = {"reason": "nobody wants the undue"}
    assert "dropped" in stage.refused(document)[0]
    note(document)["x-acknowledge"] = {"reason": "nobody is ever due"}
    assert stage.bring_up(document)


def test_rows_that_do_not_fit_stop_a_narrower_check_and_keep_their_values(stage: Stage) -> None:
    stage.insert(title="longer")
    document = changed(title=TEXT | {"maxLength": 3, "x-acknowledge": {"reason": "they all fit"}})
    with pytest.raises(MigrationError, match="notes_title_check"):
        stage.bring_up(document)
    assert ("longer", 1, "open", None) in stage.rows()
    with psycopg.connect(stage.database.superuser_url) as superuser:
        superuser.execute("delete from notes where title = 'longer'")
    migrate.upgrade(stage.database.owner_url, folder=migrations(stage.folder))
    assert stage.bring_up(document) is None


def test_rows_that_are_alike_stop_a_unique_key_until_they_differ(stage: Stage) -> None:
    stage.insert(title="three", state="open", count=1)
    document = words(notes(), unique=[["title"], ["state", "count"]])
    with pytest.raises(MigrationError, match="could not create unique index"):
        stage.bring_up(document)
    with psycopg.connect(stage.database.superuser_url) as superuser:
        superuser.execute("delete from notes where title = 'three'")
    migrate.upgrade(stage.database.owner_url, folder=migrations(stage.folder))
    assert stage.bring_up(document) is None


def test_a_column_that_is_renamed_keeps_its_values(stage: Stage) -> None:
    document = notes()
    schema = note(document)
    names = ["heading" if name == "title" else name for name in schema["properties"]]
    schema["properties"] = dict(zip(names, schema["properties"].values(), strict=True))
    schema["required"][2] = "heading"
    schema["x-table"]["unique"] = [["heading"]]
    reasons = " ".join(stage.refused(document))
    assert "the column `title` would be dropped" in reasons
    assert "no default" in reasons
    schema["x-table"]["renamed"] = {"heading": "title"}
    whole = everything(stage.database.superuser_url)
    file = stage.bring_up(document)
    assert file
    assert "drop column" not in file.read_text()
    assert [row[0] for row in stage.rows("heading", "heading")] == ["one", "two"] * 2
    assert stage.bring_up(document) is None
    stage.down()
    assert everything(stage.database.superuser_url) == whole


def test_tables_that_leave_the_contract_are_dropped_when_the_root_names_them(stage: Stage) -> None:
    document = notes()
    del document["components"]["schemas"]["Note"]
    (reason,) = stage.refused(document)
    assert (
        "the table `notes` is neither the contract's nor one of dev/planner/platform_tables.py"
        in reason
    )
    document["components"]["schemas"] = {}
    document["x-acknowledge"]["reason"] = "notes and books are kept elsewhere now"
    whole = everything(stage.database.superuser_url)
    assert stage.bring_up(document)
    stage.down()
    assert everything(stage.database.superuser_url) == whole
    assert stage.rows() == []


def test_tables_that_refer_to_one_another_are_made_and_not_dropped_at_once(
    postgres: Postgres, tmp_path: Path
) -> None:
    stage, nullable = Stage(postgres.database(), tmp_path), UUID | {"nullable": True}
    circle = notes()
    circle["x-acknowledge"]["reason"] = "projects, hens and eggs are not needed"
    circle["components"]["schemas"] = {
        "Hen": table("hens", {"egg_id": nullable}, [], references={"egg_id": {"table": "eggs"}}),
        "Egg": table("eggs", {"hen_id": nullable}, [], references={"hen_id": {"table": "hens"}}),
    }
    whole = everything(stage.database.superuser_url)
    assert stage.bring_up(circle)
    assert stage.bring_up(circle) is None
    empty = circle | {"components": {"schemas": {}}}
    assert "in a circle of references" in stage.refused(empty)[0]
    stage.down()
    assert everything(stage.database.superuser_url) == whole


def test_an_index_that_a_build_left_behind_goes_with_the_wish_for_it(stage: Stage) -> None:
    stage.insert(title="three", state="open", count=1)
    with pytest.raises(MigrationError, match="could not create unique index"):
        stage.bring_up(words(notes(), unique=[["title"], ["state", "count"]]))
    copy = migrations(stage.folder)
    (failed,) = copy.rglob(f"{revisions.newest(copy)}_*.py")
    failed.unlink()
    file = stage.bring_up(notes())
    assert file
    assert "drop index concurrently if exists notes_org_id_state_count_new" in file.read_text()
    assert stage.bring_up(notes()) is None


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
def test_a_check_is_wider_only_where_it_surely_is(old: str, new: str, wider: bool) -> None:
    assert key_changes.is_wider(old, new) is wider


# Grants, locks and the command


def test_the_grants_follow_the_operations(postgres: Postgres, tmp_path: Path) -> None:
    file = next(file for file in RESOURCES if file.stem == "ticket_desk")
    checked, database = contract.load(file, None), postgres.database()
    bring_up(database, checked, tmp_path)
    document = deepcopy(checked.document)
    row = document["paths"]["/orgs/{org_id}/tickets/{ticket_id}"]
    for method in ("put", "patch", "delete"):
        del row[method]
    created = document["paths"]["/orgs/{org_id}/tickets"]["post"]["responses"]["201"]
    del created["links"]
    (less := tmp_path / "less.yaml").write_text(json.dumps(document))
    fewer = contract.load(less, None)
    made = bring_up(database, fewer, tmp_path)
    assert made
    assert "revoke update, delete on tickets from covenant_app" in made.read_text()
    with psycopg.connect(database.superuser_url) as superuser:
        assert catalogue.issues(superuser, catalogue.required_privileges(fewer)) == set()
    bring_up(database, checked, tmp_path)
    with psycopg.connect(database.superuser_url) as superuser:
        assert catalogue.issues(superuser, catalogue.required_privileges(checked)) == set()


def test_a_column_that_may_have_a_new_name_is_said_to(stage: Stage) -> None:
    document = changed(title=None, heading=TEXT, size=COUNT)
    (refusal,) = stage.refused(words(document, unique=[]))
    assert "unless `heading` is its new name: then write `renamed: {heading: title}`" in refusal
    assert "size" not in refusal


def test_a_table_that_handlers_of_others_write_has_the_grants_that_it_names(stage: Stage) -> None:
    document = words(notes(), grants=["insert"])
    made = stage.bring_up(document)
    assert made
    assert "grant insert on notes to covenant_app" in made.read_text()
    with psycopg.connect(stage.database.superuser_url) as superuser:
        needed = catalogue.required_privileges(stage.contract(document))
        assert not [fault for fault in catalogue.issues(superuser, needed) if "notes" in fault]
    made = stage.bring_up(notes())
    assert made
    assert "revoke insert on notes from covenant_app" in made.read_text()


def test_a_revision_begins_again_after_a_lock_was_not_to_be_had(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new column is there when the reference to books waits for a writer of books."""
    monkeypatch.setattr(migrate, "RETRY_SECONDS", 0.05)
    attempts, change = [], migrate._config

    def counted(*arguments: Any) -> Any:
        attempts.append(arguments)
        return change(*arguments)

    monkeypatch.setattr(migrate, "_config", counted)
    document = changed(next_id=UUID | {"nullable": True}, extra=COUNT)
    note(document)["x-table"]["references"]["next_id"] = {"table": "books"}
    with psycopg.connect(stage.database.superuser_url) as writer:
        writer.execute("insert into books values (%s, gen_random_uuid())", (ORGS[0],))
        done = Thread(target=stage.bring_up, args=(document,))
        done.start()
        until(lambda: len(attempts) > 2)
        writer.rollback()
        done.join(30)
    assert stage.bring_up(document) is None


def test_an_index_is_built_however_long_others_write(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An open transaction makes the build wait for longer than a statement may wait for a lock."""
    monkeypatch.setattr(migrate, "MAX_ATTEMPTS", 1)
    waiting = f"""select from pg_stat_activity where datname = current_database()
        and query like '%create index concurrently%' and pid <> pg_backend_pid()
        and now() - query_start > interval '{migrate.LOCK_TIMEOUT_MS + 200} ms'"""
    document = words(notes(), indexes=[["due"], ["count"]])
    with psycopg.connect(stage.database.superuser_url) as writer:
        writer.execute("update notes set count = count + 1")
        done = Thread(target=stage.bring_up, args=(document,))
        done.start()
        with psycopg.connect(stage.database.superuser_url, autocommit=True) as superuser:
            until(lambda: superuser.execute(waiting).rowcount == 1)
        writer.commit()
        done.join(30)
    assert stage.bring_up(document) is None


def test_writers_go_on_while_a_check_is_validated(stage: Stage) -> None:
    text = str(stage.bring_up(changed(title=TEXT | {"maxLength": 40})).read_text())
    assert text.index("not valid") < text.index("validate constraint")
    assert "autocommit_block" in text


def command(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "dev.planner.planning", *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_command_says_that_nothing_is_due(database: Database) -> None:
    done = command(MIGRATION_DATABASE_URL=database.owner_url)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "The migrations are what the contract says.\n"


def test_the_command_refuses_a_database_that_is_behind(postgres: Postgres) -> None:
    behind = postgres.database(migrated=False)
    done = command(MIGRATION_DATABASE_URL=behind.owner_url)
    assert done.returncode == 1
    assert done.stderr == "the database is not at the newest revision: run make migrate first\n"


def test_a_check_asks_the_migrations_and_not_the_database_that_is_given() -> None:
    started = time.monotonic()
    done = command("--check", MIGRATION_DATABASE_URL="postgresql://nobody@127.0.0.1:1/none")
    assert (done.returncode, done.stderr) == (0, "")
    assert time.monotonic() - started < 20


@pytest.mark.parametrize(
    "statement",
    [
        'alter table t\n    alter c set default \'x""" + str(1/0) + """\'',
        "alter table t alter c set default '\"'",
        "alter table t alter c set default 'x\\d\"'",
    ],
)
def test_no_value_of_the_contract_ends_the_text_of_a_revision(statement: str) -> None:
    written = revision._execute(statement, 4).strip()
    call = ast.parse(written).body[0]
    assert isinstance(call, ast.Expr)
    assert isinstance(call.value, ast.Call)
    [text] = call.value.args
    assert ast.literal_eval(text).split() == statement.split()
