"""`make resource`: what it writes is a contract without a fault, and all else stays as it was."""

import difflib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dev import lint
from dev.breaking.change import SAFE
from dev.breaking.gate import compare_revisions, read
from dev.scaffold.__main__ import main, write
from dev.scaffold.fields import GRAMMAR, ScaffoldError
from dev.scaffold.request import ResourceRequest
from evidence.harness.processes import ROOT
from openapi import contract
from openapi.contract import Contract, ContractError

TASKS = "title:string(1..200) done:boolean=false due:date-time? unique(title)"
EVERY = """
    aa:string(1..200) bb:string(0..9)=x cc:text dd:text(3..90)? ee:integer ff:integer(-1..7)=3
    gg:number hh:number(0.5..1.5)? ii:boolean jj:boolean=true kk:date ll:date-time? mm:uuid
    pp:email? qq:enum(open|closed|2)=2 rr:ref(tasks) ss:ref(tasks,restrict)?
    tt:array(string(1..40),20) uu:array(enum(a|b))? vv:ref(things)?
    unique(aa) unique(rr,ff) index(kk) index(qq,kk)"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return Path(shutil.copy(contract.DEFAULT, tmp_path / "openapi.yaml"))


def added(file: Path, name: str, fields: str, **more: str) -> Contract:
    write(file, contract.DEFAULT_HANDLERS, ResourceRequest(name, fields, **more))
    return contract.load(file)


def body(loaded: Contract, id: str) -> dict[str, Any]:
    declared = loaded.operations[id].body
    assert declared is not None
    media: dict[str, Any] = declared["content"]["application/json"]
    return media


def test_tasks_are_five_operations_on_a_table_and_every_gate_is_content(file: Path) -> None:
    old = read(file.read_bytes(), "old")
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
    judgement = compare_revisions(old, read(file.read_bytes(), "new"))
    assert {change.kind for change, _ in judgement.changes} == {SAFE}


def test_every_type_becomes_the_column_that_it_says(file: Path) -> None:
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


def test_what_must_be_sent_is_what_has_no_other_value(file: Path) -> None:
    loaded = added(file, "tasks", TASKS, verbs="create replace update")
    created = body(loaded, "tasks.create")["schema"]
    assert created["required"] == ["title"]
    assert created["properties"]["done"]["default"] is False
    assert body(loaded, "tasks.replace")["schema"] == created
    changed = body(loaded, "tasks.update")["schema"]
    assert "required" not in changed
    # A default in a change would set what nobody meant.
    assert not any("default" in schema for schema in changed["properties"].values())


def test_lists_are_filtered_by_what_an_index_leads_to(file: Path) -> None:
    added(file, "tasks", TASKS)
    fields = "task_id:ref(tasks) day:date text:text index(day) index(day,task_id)"
    loaded = added(file, "notes", fields)
    names = [p["name"] for p in loaded.operations["notes.list"].parameters]
    assert names == ["org_id", "limit", "cursor", "task_id", "day"]


def test_a_fuzzer_finds_its_way_by_links(file: Path) -> None:
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


def test_what_is_kept_from_being_deleted_says_so(file: Path) -> None:
    loaded = added(file, "tasks", TASKS)
    assert "409" not in loaded.operations["tasks.delete"].responses
    loaded = added(file, "notes", "task_id:ref(tasks,restrict) note_id:ref(notes,restrict)?")
    codes = list(loaded.operations["tasks.delete"].responses)
    assert "409" in codes
    assert codes == sorted(codes)
    assert "409" in loaded.operations["notes.delete"].responses


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("last", ["", "newline"])
def test_lines_are_only_added(file: Path, newline: str, last: str) -> None:
    before = file.read_text().rstrip("\n") + ("\n" if last else "")
    before = before.replace("      summary: List the projects\n", "      summary: List # all\n")
    before = before.replace("\ntags:\n", "\n# Mine: é, 日本.\n\ntags: # all of them\n")
    file.write_text(before.replace("\n", newline), newline="")
    added(file, "tasks", TASKS)

    after = file.read_bytes().decode()
    assert newline == "\n" or after.count("\n") == after.count("\r\n")
    lines = [t.replace(newline, "\n").rstrip("\n").split("\n") for t in (before, after)]
    difference = difflib.SequenceMatcher(None, *lines, autojunk=False).get_opcodes()
    assert {kind for kind, *_ in difference} == {"equal", "insert"}
    assert file.stat().st_mode == contract.DEFAULT.stat().st_mode


def test_nothing_is_left_beside_the_contract(file: Path) -> None:
    added(file, "tasks", TASKS)
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (("", TASKS), "NAME: missing"),
        (("Tasks", TASKS), "NAME: `Tasks` is no plural in snake_case"),
        (("t" * 41, TASKS), "NAME: "),
        (("projects", TASKS), "NAME: `projects` is in the contract already"),
        (("orgs", TASKS), "NAME: `orgs` is in the contract already"),
        (("memberships", TASKS), "NAME: `memberships` is taken: a table of the service"),
        (("tokens", TASKS), "NAME: `tokens` is taken: service/identity/tokens.py would serve it"),
        (("keys", TASKS), "NAME: `keys` is taken: service/identity/keys.py would serve it"),
        (("faults", TASKS), "NAME: `faults` would write Fault, which line "),
        (("people", TASKS), "NAME: the singular of `people` is not plain: say it, SINGULAR=…"),
        (("cases", TASKS), "NAME: the singular of `cases` is not plain"),
        (("tasks", TASKS, "", "tasks"), "SINGULAR: `tasks` is no singular of `tasks`"),
        (("tasks", TASKS, "list show"), "VERBS: word 2, `show`: unknown verb: there are create,"),
        (("tasks", ""), "FIELDS: names no field"),
        (("tasks", "unique(title)"), "FIELDS: names no field"),
        (("tasks", "title"), "FIELDS: word 1, `title`: is not name:type"),
        (("tasks", "a:text Title:text"), "FIELDS: word 2, `Title:text`: `Title` is no name"),
        (("tasks", "a:text a:text"), "FIELDS: word 2, `a:text`: `a` is there already"),
        (("tasks", "id:uuid"), "FIELDS: word 1, `id:uuid`: `id` is the service's"),
        (("tasks", "to_dict:date"), "`to_dict` is a name that generated Python clients use"),
        (("tasks", "on:date"), "`on` is no name to every reader of YAML"),
        (("tasks", "a:bool"), "FIELDS: word 1, `a:bool`: unknown type `bool`"),
        (("tasks", "a:datetime"), "unknown type `datetime`; did you mean `date-time`?"),
        (("tasks", "a:string(1-9)"), "`(1-9)` is no range such as (1..200)"),
        (("tasks", "a:string(9..1)"), "`(9..1)` is no range within 0..1000000"),
        (("tasks", "a:integer(0..1.5)"), "`(0..1.5)` is no range such as (1..200)"),
        (("tasks", "a:integer(0..9223372036854775808)"), "is no range within -9223372036854775808"),
        (("tasks", "a:boolean(1)"), "boolean takes nothing in brackets"),
        (("tasks", "a:enum"), "write enum(open|closed)"),
        (("tasks", "a:enum(x|x)"), "names a value twice"),
        (("tasks", "a:array(ref(projects))"), "write array(type)"),
        (("tasks", "a:array(date,0)"), "write array(type)"),
        (("tasks", "a:text?=x"), "`a` is optional: no default is kept for it"),
        (("tasks", "a:date=2026-01-01"), "`a` is of type date: no default is kept for it"),
        (("tasks", "a:integer(1..3)=4"), "the default `4` is not valid"),
        (("tasks", "a:boolean=yes"), "the default `yes` is not valid"),
        (("tasks", "a:enum(x|y)=z"), "the default `z` is not valid"),
        (("tasks", "a:ref(tsks)"), "FIELDS: word 1, `a:ref(tsks)`: no table `tsks`"),
        (("tasks", "a:ref(orgs)"), "no table `orgs` in the contract"),
        (("tasks", "a:ref(tasks)"), "no first row could be: write ref(tasks)?"),
        (("tasks", "a:ref(projects,drop)"), "write ref(table), ref(table,cascade)"),
        (("tasks", "a:text unique(b)"), "FIELDS: word 2, `unique(b)`: no field `b`"),
        (("tasks", "a:date unique(a,a)"), "names a field twice"),
        (("tasks", "a:array(date) index(a)"), "an array cannot be part of a key"),
        (("tasks", "a:text unique(a)"), "a key has at most 600 characters"),
        (("tasks", "limit:integer index(limit)"), "`limit:integer`: no filter can have that name"),
    ],
)
def test_what_is_refused_is_named_in_one_line_and_nothing_is_written(
    file: Path, asked: tuple[str, ...], reason: str
) -> None:
    before = file.read_bytes()
    with pytest.raises(ScaffoldError) as refusal:
        write(file, contract.DEFAULT_HANDLERS, ResourceRequest(*asked))
    assert reason in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


def test_a_second_time_is_refused(file: Path) -> None:
    added(file, "tasks", TASKS)
    with pytest.raises(ScaffoldError, match="`tasks` is in the contract already"):
        added(file, "tasks", TASKS)


def test_what_only_the_reader_finds_is_not_written(file: Path) -> None:
    before = file.read_bytes()
    with pytest.raises(ContractError, match=r"with t+s:\d+: .* has more than 63 bytes"):
        added(file, "t" * 39 + "s", f"{'f' * 40}:text")
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


def test_a_faulty_contract_is_refused_for_its_own_faults(file: Path) -> None:
    file.write_text(file.read_text().replace("operationId: orgs.get\n", "operationId: orgs.got\n"))
    with pytest.raises(ContractError, match=r"handlers/orgs.py has no function `got`"):
        added(file, "tasks", TASKS)


def test_a_contract_that_lines_cannot_be_added_to_stays_as_it_is(file: Path) -> None:
    whole = file.read_text()
    head, _, rest = whole.partition("\ntags:\n")
    names = [tag["name"] for tag in contract.load(file).document["tags"]]
    tags = ", ".join(f"{{name: {name}}}" for name in names)
    in_one_line = f"{head}\ntags: [{tags}]\n\n# {rest.partition('# ')[2]}"
    absent = whole.replace("    NotFound:\n", "    Absent:\n").replace("/NotFound'", "/Absent'")
    for text, reason in (
        (in_one_line, "write tags with one entry a line"),
        (absent, "the contract has no components/responses/NotFound to refer to"),
    ):
        file.write_text(text)
        with pytest.raises(ScaffoldError, match=reason):
            added(file, "tasks", TASKS)
        assert file.read_text() == text


RANGES = st.tuples(st.integers(0, 50), st.integers(0, 50)).map(sorted)
TYPES = st.one_of(
    st.sampled_from(["boolean", "date", "date-time", "uuid", "email", "text", "integer", "number"]),
    RANGES.map(lambda r: f"string({r[0]}..{r[1]})"),
    RANGES.map(lambda r: f"integer(-{r[0]}..{r[1]})"),
    RANGES.map(lambda r: f"number({r[0]}.25..{r[1]}.5)"),
    st.lists(st.from_regex(r"[A-Za-z0-9_.-]{1,9}", fullmatch=True), min_size=1, unique=True).map(
        lambda words: f"enum({'|'.join(words)})"
    ),
    RANGES.map(lambda r: f"array(string({r[0]}..{r[1]}),{r[1] + 1})"),
)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.tuples(TYPES, st.sampled_from(["", "?"])), min_size=1, max_size=9))
def test_whatever_the_grammar_lets_in_is_a_contract_without_a_fault(
    file: Path, types: list[tuple[str, str]]
) -> None:
    shutil.copy(contract.DEFAULT, file)
    words = [f"field_{n}:{kind}{optional}" for n, (kind, optional) in enumerate(types)]
    assert added(file, "tasks", " ".join(words)).tables["tasks"]


def test_the_command_takes_its_words_from_the_environment(tmp_path: Path) -> None:
    for package in ("openapi", "handlers", "dev"):
        shutil.copytree(ROOT / package, tmp_path / package)
    command = [sys.executable, "-m", "openapi.scaffold"]
    asked = {"NAME": "tasks", "FIELDS": TASKS}
    for code, line in ((0, "lines for tasks: create list get update delete"), (1, "Nothing was")):
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env={**os.environ, **asked},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert (done.returncode, line in done.stdout) == (code, True), done.stdout


def test_without_words_the_command_says_what_it_takes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main({}) == 1
    assert GRAMMAR in capsys.readouterr().err
