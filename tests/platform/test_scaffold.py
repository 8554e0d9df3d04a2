"""`make resource`: the result is a valid contract, and everything else in it stays unchanged."""

import difflib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dev import lint
from dev.breaking.change import Severity
from dev.breaking.gate import compare_revisions, parse_revision
from dev.scaffold.__main__ import HELP, main, write
from dev.scaffold.field_types import ScaffoldError
from dev.scaffold.request import ResourceRequest, singular_of
from evidence.harness.processes import ROOT
from openapi import contract
from openapi.contract import Contract, ContractError
from openapi.tables import SERVICE_COLUMNS

TASKS = "title:string(1..200) done:boolean=false due:date-time? unique(title)"
EVERY = """
    aa:string(1..200) bb:string(0..9)=x cc:text dd:text(3..90)? ee:integer ff:integer(-1..7)=3
    gg:number hh:number(0.5..1.5)? ii:boolean jj:boolean=true kk:date ll:date-time? mm:uuid
    pp:email? qq:enum(open|closed|2)=2 rr:ref(tasks) ss:ref(tasks,restrict)?
    tt:array(string(1..40),20) uu:array(enum(a|b))? vv:ref(things)?
    unique(aa) unique(rr,ff) index(kk) index(qq,kk)"""
# Names of modules of the service, and the singular where it is required.
INTERNAL_NAMES = {
    "keys": "",
    "tokens": "",
    "columns": "",
    "resource": "resource",
    "security": "security",
    "status": "status",
    "runtime": "runtime",
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A copy of the shipped contract."""
    return Path(shutil.copy(contract.DEFAULT, tmp_path / "openapi.yaml"))


def added(file: Path, name: str, fields: str, **options: str) -> Contract:
    """Return the contract after a resource is added to it."""
    write(file, contract.DEFAULT_HANDLERS, ResourceRequest(name, fields, **options))
    return contract.load(file)


def body_schema(loaded: Contract, id: str) -> dict[str, Any]:
    """Return the schema of an operation's request body."""
    body = loaded.operations[id].body
    assert body is not None
    schema: dict[str, Any] = body["content"]["application/json"]["schema"]
    return schema


def test_tasks_are_five_operations_on_a_table_and_every_check_passes(file: Path) -> None:
    old = parse_revision(file.read_bytes(), "old")
    loaded = added(file, "tasks", TASKS)

    assert [id for id in loaded.operations if id.startswith("tasks.")] == [
        *("tasks.create", "tasks.list", "tasks.get", "tasks.update", "tasks.delete")
    ]
    table = loaded.tables["tasks"]
    assert [column.name for column in table.columns] == [
        *("id", "org_id", "title", "done", "due", "created_at", "updated_at")
    ]
    assert table.unique == (("title",),)
    assert lint.lint(loaded) == []
    verdict = compare_revisions(old, parse_revision(file.read_bytes(), "new"))
    assert {change.severity for change, _ in verdict.changes} == {Severity.SAFE}


def test_every_type_becomes_a_column(file: Path) -> None:
    added(file, "tasks", TASKS)
    table = added(file, "things", EVERY).tables["things"]
    columns = {column.name: column for column in table.columns}

    assert (columns["aa"].schema["minLength"], columns["aa"].schema["maxLength"]) == (1, 200)
    assert columns["bb"].default == "x"
    assert columns["ff"].schema == {"type": "integer", "minimum": -1, "maximum": 7, "default": 3}
    assert columns["hh"].schema["minimum"] == 0.5
    assert columns["jj"].default is True
    assert columns["kk"].schema["format"] == "date"
    assert columns["ll"].schema["format"] == "date-time"
    assert columns["pp"].schema["format"] == "email"
    assert columns["qq"].schema["enum"] == ["open", "closed", "2"]
    assert columns["tt"].schema["maxItems"] == 20
    optional = {column.name for column in table.columns if column.nullable}
    assert optional == {"dd", "hh", "ll", "pp", "ss", "uu", "vv"}
    assert {c.name for c in table.columns if c.required} == columns.keys() - optional
    assert {(r.column, r.table, r.on_delete) for r in table.references} == {
        ("rr", "tasks", "cascade"),
        ("ss", "tasks", "restrict"),
        ("vv", "things", "cascade"),
    }
    assert table.unique == (("aa",), ("rr", "ff"))
    assert table.indexes == (("kk",), ("qq", "kk"))


def test_a_field_is_required_unless_it_is_optional_or_has_a_default(file: Path) -> None:
    loaded = added(file, "tasks", TASKS, verbs="create replace update")
    create = body_schema(loaded, "tasks.create")
    assert create["required"] == ["title"]
    assert create["properties"]["done"]["default"] is False
    assert body_schema(loaded, "tasks.replace") == create
    update = body_schema(loaded, "tasks.update")
    assert "required" not in update
    # A default in a patch would change a property that the client did not send.
    assert not any("default" in schema for schema in update["properties"].values())


def test_lists_are_filtered_by_references_and_single_indexes(file: Path) -> None:
    added(file, "tasks", TASKS)
    fields = "task_id:ref(tasks) day:date text:text index(day) index(day,task_id)"
    loaded = added(file, "notes", fields)
    names = [p["name"] for p in loaded.operations["notes.list"].parameters]
    assert names == ["org_id", "limit", "cursor", "task_id", "day"]


def test_links_lead_to_every_operation(file: Path) -> None:
    added(file, "tasks", TASKS)
    loaded = added(file, "notes", "task_id:ref(tasks) other_id:ref(tasks)? text:text")
    links = {
        (id, link["operationId"]): link
        for id, operation in loaded.operations.items()
        for response in operation.responses.values()
        for link in response.get("links", {}).values()
    }
    linked = {target for _, target in links}
    assert {id for id in loaded.operations if id.startswith(("tasks.", "notes."))} <= linked
    assert ("orgs.create", "notes.create") in links
    assert links["tasks.create", "notes.create"]["requestBody"] == {
        "task_id": "$response.body#/id",
        "other_id": "$response.body#/id",
    }


def test_a_deletion_that_a_reference_can_prevent_declares_409(file: Path) -> None:
    loaded = added(file, "tasks", TASKS)
    assert "409" not in loaded.operations["tasks.delete"].responses
    loaded = added(file, "notes", "task_id:ref(tasks,restrict) note_id:ref(notes,restrict)?")
    codes = list(loaded.operations["tasks.delete"].responses)
    assert "409" in codes
    assert codes == sorted(codes)
    assert "409" in loaded.operations["notes.delete"].responses


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("last_newline", ["\n", ""])
def test_lines_are_only_inserted(file: Path, newline: str, last_newline: str) -> None:
    before = file.read_text().rstrip("\n") + last_newline
    before = before.replace("      summary: List the projects\n", "      summary: List # all\n")
    before = before.replace("\ntags:\n", "\n# Ours: é, 日本.\n\ntags: # all of them\n")
    file.write_text(before.replace("\n", newline), newline="")
    added(file, "tasks", TASKS)

    after = file.read_bytes().decode()
    assert newline == "\n" or after.count("\n") == after.count("\r\n")
    lines = [t.replace(newline, "\n").rstrip("\n").split("\n") for t in (before, after)]
    difference = difflib.SequenceMatcher(None, *lines, autojunk=False).get_opcodes()
    assert {kind for kind, *_ in difference} == {"equal", "insert"}
    assert file.stat().st_mode == contract.DEFAULT.stat().st_mode


def test_no_temporary_file_remains(file: Path) -> None:
    added(file, "tasks", TASKS)
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("", TASKS), "NAME is missing: the plural of the resource, such as NAME=tasks"),
        (("Tasks", TASKS), "NAME: `Tasks` must be snake_case and at most 40 characters long"),
        (("t" * 41, TASKS), "NAME: "),
        (("projects", TASKS), "NAME: `projects` already exists in the contract"),
        (("orgs", TASKS), "NAME: `orgs` already exists in the contract"),
        (("memberships", TASKS), "NAME: `memberships` is taken: it is a table of the service"),
        (("people", TASKS), "SINGULAR is missing: `people` is not a regular plural"),
        (("cases", TASKS), "SINGULAR is missing: `cases` is not a regular plural"),
        (("tasks", TASKS, "", "tasks"), "SINGULAR: `tasks` is the plural; the singular is `task`"),
        (("tasks", TASKS, "", "Task"), "SINGULAR: `Task` must be snake_case"),
        (("tasks", TASKS, "", "org"), "SINGULAR: `org` is taken: `{org_id}` already names"),
        (("tasks", TASKS, "list show"), "VERBS: unknown verb `show`; the verbs are create, list"),
        (("tasks", ""), "FIELDS: at least one field is required"),
        (("tasks", "unique(title)"), "FIELDS: at least one field is required"),
        (("tasks", "title"), "FIELDS, entry 1, `title`: write name:type, name:type? or name:type="),
        (("tasks", "a:text Title:text"), "FIELDS, entry 2, `Title:text`: the name `Title` must be"),
        (("tasks", "a:text a:text"), "entry 2, `a:text`: the field `a` is already defined"),
        (("tasks", "id:uuid"), "`id:uuid`: the column `id` is added and filled by the service"),
        (("tasks", "to_dict:date"), "the name `to_dict` is reserved in generated Python clients"),
        (("tasks", "on:date"), "the name `on` is a keyword for many YAML readers"),
        (("tasks", "a:bool"), "FIELDS, entry 1, `a:bool`: unknown type `bool`"),
        (("tasks", "a:datetime"), "unknown type `datetime`; did you mean `date-time`?"),
        (("tasks", "a:x"), "unknown type `x`; the types are string, text, integer"),
        (("tasks", "a:string(1-9)"), "`(1-9)` is not a range such as (1..200)"),
        (("tasks", "a:number(1..x)"), "`(1..x)` is not a range such as (0.5..1.5)"),
        (("tasks", "a:string(9..1)"), "the range `(9..1)` must be ascending and within 0..1000000"),
        (("tasks", "a:integer(0..1.5)"), "`(0..1.5)` is not a range such as (1..200)"),
        (("tasks", "a:integer(0..9223372036854775808)"), "within -9223372036854775808..922337203"),
        (("tasks", "a:boolean(1)"), "`boolean` does not accept arguments in parentheses"),
        (("tasks", "a:enum"), "write enum(open|closed)"),
        (("tasks", "a:enum(x|x)"), "the values of an enum must be unique"),
        (("tasks", "a:array(ref(projects))"), "write array(type) or array(type,max_items)"),
        (("tasks", "a:array(date,0)"), "write array(type) or array(type,max_items)"),
        (("tasks", "a:text?=x"), "an optional field cannot have a default"),
        (("tasks", "a:date=2026-01-01"), "a field of type date cannot have a default"),
        (("tasks", "a:ref(projects)=x"), "a field of type ref cannot have a default"),
        (("tasks", "a:integer(1..3)=4"), "the default `4` is not valid for the field"),
        (("tasks", "a:number=NaN"), "the default `NaN` is not valid for the field"),
        (("tasks", "a:boolean=yes"), "the default `yes` is not valid for the field"),
        (("tasks", "a:enum(x|y)=z"), "the default `z` is not valid for the field"),
        (("tasks", "a:ref(project)"), "unknown table `project`; the tables are: projects"),
        (("tasks", "a:ref(orgs)"), "FIELDS, entry 1, `a:ref(orgs)`: unknown table `orgs`"),
        (("tasks", "a:ref(tasks)"), "the first row has nothing to reference: write ref(tasks)?"),
        (("tasks", "a:ref(projects,drop)"), "write ref(table), ref(table,cascade)"),
        (("tasks", "a:text unique(b)"), "FIELDS, entry 2, `unique(b)`: unknown field `b`"),
        (("tasks", "a:date unique(a,a)"), "a key cannot contain a field twice"),
        (("tasks", "a:array(date) index(a)"), "a key cannot contain an array"),
        (("tasks", "a:text unique(a)"), "a key cannot exceed 600 characters in total"),
        (("tasks", "limit:integer index(limit)"), "`limit` is a parameter of every list"),
    ],
)
def test_an_invalid_argument_is_explained_in_one_line_and_nothing_is_written(
    file: Path, arguments: tuple[str, ...], message: str
) -> None:
    before = file.read_bytes()
    with pytest.raises(ScaffoldError) as error:
        write(file, contract.DEFAULT_HANDLERS, ResourceRequest(*arguments))
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


def test_every_invalid_argument_is_explained_at_once(file: Path) -> None:
    request = ResourceRequest("people", "a:bool b:text(x) c:date", "create show")
    with pytest.raises(ScaffoldError) as error:
        write(file, contract.DEFAULT_HANDLERS, request)
    settings = [issue.split(":")[0].split(",")[0].split(" ")[0] for issue in error.value.issues]
    assert settings == ["SINGULAR", "VERBS", "FIELDS", "FIELDS"]
    assert str(error.value) == "\n".join(error.value.issues)


@pytest.mark.parametrize(
    ("plural", "singular"),
    [
        ("tasks", "task"),
        ("keys", "key"),
        ("order_lines", "order_line"),
        ("invoices", "invoice"),
        ("companies", "company"),
        ("ties", "tie"),
        ("classes", "class"),
        ("dishes", "dish"),
        ("branches", "branch"),
        ("tax_boxes", "tax_box"),
        *((noun, None) for noun in ("people", "status", "access", "analysis", "cases", "buses")),
        *((noun, None) for noun in ("shelves", "potatoes", "quizzes", "movies", "news", "s")),
    ],
)
def test_only_a_regular_plural_has_a_singular(plural: str, singular: str | None) -> None:
    assert singular_of(plural) == singular


def test_names_of_internal_modules_can_be_resources(file: Path) -> None:
    for name, singular in INTERNAL_NAMES.items():
        loaded = added(file, name, "title:string unique(title)", singular=singular)
        assert loaded.tables[name].unique == (("title",),)
        assert loaded.operations[f"{name}.create"].tag == name
    assert lint.lint(loaded) == []


def test_a_schema_gets_another_name_if_the_contract_has_it_already(file: Path) -> None:
    loaded = added(file, "tokens", TASKS)
    assert loaded.tables["tokens"].schema == "TokenRecord"
    assert loaded.operations["tokens.get"].path == "/orgs/{org_id}/tokens/{token_id}"
    with pytest.raises(ScaffoldError, match="`token` would redefine the component Token of line "):
        added(file, "api_tokens", TASKS, singular="token")


def test_a_name_of_a_handler_module_is_rejected(file: Path, tmp_path: Path) -> None:
    handlers = Path(shutil.copytree(contract.DEFAULT_HANDLERS, tmp_path / "handlers"))
    (handlers / "tasks.py").touch()
    message = "`tasks` is taken: handlers/tasks.py would serve its operations"
    with pytest.raises(ScaffoldError, match=message):
        write(file, handlers, ResourceRequest("tasks", TASKS))


def test_the_prose_in_the_contract_is_english(file: Path) -> None:
    verbs = "create list get replace update delete"
    fields = "title:string due:date unique(title) unique(due,title) index(due)"
    loaded = added(file, "order_items", fields, verbs=verbs)
    summaries = {
        id: loaded.document["paths"][o.path][o.method]["summary"]
        for id, o in loaded.operations.items()
        if o.tag == "order_items"
    }
    assert summaries == {
        "order_items.create": "Create an order item",
        "order_items.list": "List the order items of an organization",
        "order_items.get": "Get an order item",
        "order_items.replace": "Replace an order item",
        "order_items.update": "Update an order item (JSON merge patch)",
        "order_items.delete": "Delete an order item",
    }
    path_item = loaded.document["paths"]["/orgs/{org_id}/order_items"]
    assert " ".join(path_item["post"]["description"].split()) == (
        "Within an organization, `title` must be unique."
        " Within an organization, the combination of `due` and `title` must be unique."
    )
    assert (
        path_item["get"]["parameters"][2]["description"]
        == "Return only order items with this `due`"
    )


@pytest.mark.parametrize(
    ("noun", "expected"),
    [("user", "a user"), ("url", "a url"), ("hour", "an hour"), ("item", "an item")],
)
def test_the_article_follows_the_sound(file: Path, noun: str, expected: str) -> None:
    loaded = added(file, f"{noun}s", "title:string", verbs="get")
    (operation,) = (o for o in loaded.operations.values() if o.tag == f"{noun}s")
    assert loaded.document["paths"][operation.path]["get"]["summary"] == f"Get {expected}"


def test_a_resource_cannot_be_added_twice(file: Path) -> None:
    added(file, "tasks", TASKS)
    with pytest.raises(ScaffoldError, match="`tasks` already exists in the contract"):
        added(file, "tasks", TASKS)


def test_nothing_is_written_if_the_result_is_not_a_valid_contract(file: Path) -> None:
    before = file.read_bytes()
    with pytest.raises(ContractError, match=r"with t+s:\d+: .* 63 bytes"):
        added(file, "t" * 39 + "s", f"{'f' * 40}:text")
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


def test_an_invalid_contract_is_rejected_with_its_own_issues(file: Path) -> None:
    file.write_text(file.read_text().replace("operationId: orgs.get\n", "operationId: orgs.got\n"))
    with pytest.raises(ContractError, match=r"handlers/orgs\.py .*`got`"):
        added(file, "tasks", TASKS)


def test_a_contract_that_lines_cannot_be_inserted_into_stays_unchanged(file: Path) -> None:
    shipped = file.read_text()
    head, _, rest = shipped.partition("\ntags:\n")
    names = [tag["name"] for tag in contract.load(file).document["tags"]]
    tags = ", ".join(f"{{name: {name}}}" for name in names)
    flow_style = f"{head}\ntags: [{tags}]\n\n# {rest.partition('# ')[2]}"
    renamed = shipped.replace("    NotFound:\n", "    Absent:\n").replace("/NotFound'", "/Absent'")
    for text, message in (
        (flow_style, r"line \d+: write tags with one entry per line"),
        (renamed, "the contract must define components/responses/NotFound, which resources use"),
    ):
        file.write_text(text)
        with pytest.raises(ScaffoldError, match=message):
            added(file, "tasks", TASKS)
        assert file.read_text() == text


RANGES = st.tuples(st.integers(0, 50), st.integers(0, 50)).map(sorted)
TYPES = st.one_of(
    st.sampled_from(["boolean", "date", "date-time", "uuid", "email", "text", "integer", "number"]),
    RANGES.map(lambda r: f"string({r[0]}..{r[1]})"),
    RANGES.map(lambda r: f"integer(-{r[0]}..{r[1]})"),
    RANGES.map(lambda r: f"number({r[0]}.25..{r[1]}.5)"),
    st.lists(st.from_regex(r"[A-Za-z0-9_.-]{1,9}", fullmatch=True), min_size=1, unique=True).map(
        lambda values: f"enum({'|'.join(values)})"
    ),
    RANGES.map(lambda r: f"array(string({r[0]}..{r[1]}),{r[1] + 1})"),
)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.tuples(TYPES, st.sampled_from(["", "?"])), min_size=1, max_size=9))
def test_every_valid_field_makes_a_valid_contract(file: Path, types: list[tuple[str, str]]) -> None:
    shutil.copy(contract.DEFAULT, file)
    entries = [f"field_{n}:{name}{optional}" for n, (name, optional) in enumerate(types)]
    assert added(file, "tasks", " ".join(entries)).tables["tasks"]


def run_command(directory: Path, **arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run the command as `make resource` does, in a copy of the repository."""
    inherited = {k: v for k, v in os.environ.items() if k not in ("NAME", "FIELDS", "VERBS")}
    return subprocess.run(
        [sys.executable, "-m", "dev.scaffold"],
        cwd=directory,
        env=inherited | arguments,
        capture_output=True,
        text=True,
    )


def test_the_command_adds_the_resource_that_the_environment_describes(tmp_path: Path) -> None:
    for package in ("openapi", "handlers", "dev"):
        shutil.copytree(ROOT / package, tmp_path / package)

    created = run_command(tmp_path, NAME="tasks", FIELDS=TASKS)
    assert (created.returncode, created.stderr) == (0, "")
    added_line, next_line = created.stdout.splitlines()
    assert added_line.startswith("openapi/openapi.yaml: added ")
    assert added_line.endswith(" lines for tasks (create, list, get, update, delete)")
    assert next_line == "Next: make migration, make generate, make run"

    rejected = run_command(tmp_path, NAME="tasks", FIELDS="title:strng done")
    assert (rejected.returncode, rejected.stdout) == (1, "")
    assert rejected.stderr.splitlines() == [
        "NAME: `tasks` already exists in the contract",
        "FIELDS, entry 1, `title:strng`: unknown type `strng`; did you mean `string`?",
        "FIELDS, entry 2, `done`: write name:type, name:type? or name:type=default",
        "Nothing was written.",
    ]


def test_without_arguments_the_command_prints_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main({}) == 0
    assert capsys.readouterr() == (f"{HELP}\n", "")
    assert all(len(line) <= 100 for line in HELP.splitlines())


def test_every_field_in_the_help_is_valid(file: Path) -> None:
    section = HELP.partition("\nFields")[2].partition("\nThe command")[0]
    entries = re.findall(r"^  ([a-z]\S+)", section, re.MULTILINE)
    assert len(entries) == 11
    loaded = added(file, "tasks", " ".join(entries))
    assert len(loaded.tables["tasks"].columns) == 9 + len(SERVICE_COLUMNS)
