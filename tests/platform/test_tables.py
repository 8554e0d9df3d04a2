"""The tables of a contract: how they are loaded and checked, and their types in PostgreSQL."""

import json
import re
import warnings
from copy import deepcopy
from pathlib import Path
from typing import Any

import jsonschema_rs
import psycopg
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from db import ids
from db.sql import pagination
from dev.planner import column_types, platform_tables, regex_translation
from openapi import contract, documents
from openapi.contract import Contract, ContractError
from openapi.rules import table_lists
from openapi.tables import PLATFORM_TABLES, Column
from tests.platform.fix_planner import RESOURCES, database_of
from tests.platform.fix_postgres import Database, Postgres

INVALID = Path(__file__).parent / "contracts" / "invalid"
BY_NAME = {file.stem: file for file in RESOURCES}


@pytest.fixture(scope="module")
def desk() -> Contract:
    return contract.load(BY_NAME["ticket_desk"], None)


def column(schema: dict[str, Any], name: str = "x") -> Column:
    return Column(name, schema, True, False, schema.get("default"))


# Loaded tables


def test_a_table_has_columns_keys_and_references(desk: Contract) -> None:
    assert [*desk.tables] == ["tickets", "comments"]
    tickets, comments = desk.tables.values()
    assert (tickets.schema, tickets.unique) == ("Ticket", (("reference",),))
    assert tickets.indexes == (("status",), ("priority",), ("due",))
    assert [(r.column, r.table, r.on_delete) for r in comments.references] == [
        ("ticket_id", "tickets", "cascade")
    ]
    status, due, created_at = map(tickets.column, ("status", "due", "created_at"))
    assert status
    assert (status.required, status.nullable, status.default) == (True, False, "open")
    assert due
    assert (due.required, due.nullable, due.default) == (False, True, None)
    assert created_at
    assert created_at.schema["format"] == "date-time"
    assert tickets.column("nothing") is None


def test_every_platform_table_is_reserved() -> None:
    assert {*PLATFORM_TABLES} == {"alembic_version", *platform_tables.metadata().tables}


def test_the_verbs_of_a_table_need_no_handler_but_any_other_verb_does(
    desk: Contract, tmp_path: Path
) -> None:
    handlers = tmp_path / "handlers"
    handlers.mkdir()
    for tag in {o.tag for o in desk.operations.values()} - {*desk.tables}:
        functions = [o.function for o in desk.operations.values() if o.tag == tag]
        source = "".join(f"def {function}(): ...\n" for function in functions)
        (handlers / f"{tag}.py").write_text(source)
    assert contract.load(desk.file, handlers).tables
    (handlers / "tickets.py").write_text("def archive(): ...\n")
    assert contract.load(desk.file, handlers).tables
    document = deepcopy(desk.document)
    row = document["paths"]["/orgs/{org_id}/tickets/{ticket_id}"]
    row["get"]["operationId"] = "tickets.archive"
    row["put"]["operationId"] = "tickets.destroy"
    (other := tmp_path / "other.yaml").write_text(
        json.dumps(document)
        .replace("tickets.get", "tickets.archive")
        .replace("tickets.replace", "tickets.destroy")
    )
    with pytest.raises(ContractError) as rejection:
        contract.load(other, handlers)
    (issue,) = rejection.value.issues
    assert issue.reason == (
        "handlers/tickets.py has no function `destroy`; only create, list, get, replace, update "
        "and delete need no handler"
    )
    (handlers / "tickets.py").write_text("def archive(:\n")
    with pytest.raises(ContractError, match=r"handlers/tickets.py is not valid Python"):
        contract.load(desk.file, handlers)


def test_the_rules_of_tables_do_not_apply_to_operations_with_a_handler(
    desk: Contract, tmp_path: Path
) -> None:
    document = deepcopy(desk.document)
    body = document["components"]["schemas"]["TicketRequest"]
    body["properties"]["subject"] = {"type": "string", "maxLength": 500, "pattern": "^[!-~ ]*$"}
    (wide := tmp_path / "wide.yaml").write_text(json.dumps(document))
    with pytest.raises(ContractError, match="wider maxLength"):
        contract.load(wide, None)
    handlers = tmp_path / "handlers"
    handlers.mkdir()
    for tag in {o.tag for o in desk.operations.values()}:
        functions = [o.function for o in desk.operations.values() if o.tag == tag]
        (handlers / f"{tag}.py").write_text("".join(f"def {f}(): ...\n" for f in functions))
    assert contract.load(wide, handlers).tables


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "string", "maxLength": 9}, "\U0001f600" * 9),
        ({"type": "string", "enum": ["open", "closed"]}, "closed"),
        ({"type": "string", "format": "date-time"}, "9999-12-31 23:59:59.999999+15:59:59"),
        ({"type": "number"}, "-1.7976931348623157e+308"),
    ],
)
def test_no_cursor_is_longer_than_the_maximum(schema: dict[str, Any], value: str) -> None:
    length = len(pagination.encode_sorted_cursor("-x", value, ids.new()))
    assert length <= table_lists.max_cursor_length("-x", schema)
    if "format" not in schema and schema["type"] == "string":
        assert length == table_lists.max_cursor_length("-x", schema)


@pytest.mark.parametrize("wrong", [None, [[]], {"a": [{}]}], ids=repr)
@pytest.mark.parametrize(
    "name",
    ["table-body", "table-filters", "table-references", "table-keys", "table-renamed"],
)
def test_a_malformed_table_never_raises_another_error(
    name: str, wrong: Any, tmp_path: Path
) -> None:
    document = yaml.safe_load((INVALID / f"{name}.yaml").read_text())
    scratch = tmp_path / "contract.yaml"
    for path in _node_paths(document):
        if "A" in path or "paths" in path:
            changed = deepcopy(document)
            documents.node_at(changed, path[:-1])[path[-1]] = wrong
            scratch.write_text(json.dumps(changed))
            with pytest.raises(ContractError):
                contract.load(scratch, None)


def test_a_cascade_from_a_table_without_a_valid_name_never_raises_another_error(
    desk: Contract, tmp_path: Path
) -> None:
    document = deepcopy(desk.document)
    document["components"]["schemas"]["Comment"]["x-table"]["name"] = []
    responses = document["paths"]["/orgs/{org_id}/tickets/{ticket_id}"]["delete"]["responses"]
    responses.pop("409", None)
    (scratch := tmp_path / "contract.yaml").write_text(json.dumps(document))
    with pytest.raises(ContractError, match="must be a string"):
        contract.load(scratch, None)


def _node_paths(node: Any, path: documents.NodePath = ()) -> list[documents.NodePath]:
    keys = node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
    below = [inner for key in keys for inner in _node_paths(node[key], (*path, key))]
    return [path, *below] if path else below


# Types and constraints in PostgreSQL


@pytest.mark.parametrize(
    ("schema", "kind"),
    [
        ({"type": "string"}, "text"),
        ({"type": "string", "format": "uuid"}, "uuid"),
        ({"type": "string", "format": "date-time"}, "timestamptz"),
        ({"type": "string", "format": "date"}, "date"),
        ({"type": "string", "format": "byte"}, "text"),
        ({"type": "string", "format": "email"}, "text"),
        ({"type": "integer"}, "bigint"),
        ({"type": "integer", "format": "int32"}, "integer"),
        ({"type": "integer", "format": "int64"}, "bigint"),
        ({"type": "number"}, "double precision"),
        ({"type": "number", "format": "float"}, "double precision"),
        ({"type": "boolean"}, "boolean"),
        ({"type": "object"}, "jsonb"),
        ({"type": "array"}, "jsonb"),
    ],
)
def test_every_type_and_format_has_a_type_in_postgresql(schema: dict[str, Any], kind: str) -> None:
    assert column_types.type_of(column(schema)) == kind


@pytest.mark.parametrize(
    ("schema", "check"),
    [
        ({"type": "string", "minLength": 1, "maxLength": 9}, "char_length(x) between 1 and 9"),
        ({"type": "string", "minLength": 0, "maxLength": 9}, "char_length(x) <= 9"),
        ({"type": "string", "format": "ipv6"}, "char_length(x) <= 45"),
        ({"type": "string", "enum": ["a", "it's", None]}, "x in ('a', 'it''s')"),
        ({"type": "string", "enum": ["a"], "maxLength": 9, "pattern": "^a$"}, "x = 'a'"),
        ({"type": "integer", "enum": [1, 2]}, "x in (1, 2)"),
        ({"type": "integer", "minimum": 0, "maximum": 9}, "x between 0 and 9"),
        ({"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}, None),
        ({"type": "integer", "format": "int32", "minimum": -(2**31), "maximum": 5}, "x <= 5"),
        (
            {"type": "number", "minimum": 0, "exclusiveMinimum": True, "maximum": 1.5},
            "x > 0 and x <= 1.5",
        ),
        (
            {"type": "number", "minimum": 0, "maximum": 1, "exclusiveMaximum": True},
            "x < 1 and x >= 0",
        ),
        ({"type": "boolean"}, None),
        ({"type": "array"}, "jsonb_typeof(x) = 'array'"),
    ],
)
def test_limits_become_check_constraints(schema: dict[str, Any], check: str | None) -> None:
    assert column_types.checks(column(schema)) == ({"check": check} if check else {})


@pytest.mark.parametrize(
    ("value", "sql"),
    [
        (None, None),
        ("it's", "'it''s'"),
        (True, "true"),
        (-0.5, "-0.5"),
        (2**63 - 1, "9223372036854775807"),
        (["ü"], """'["ü"]'"""),
    ],
)
def test_a_default_becomes_a_literal(value: Any, sql: str | None) -> None:
    assert column_types.default_of(column({"type": "string", "default": value})) == sql


def test_every_reserved_keyword_is_quoted(database: Database) -> None:
    with psycopg.connect(database.app_url) as connection:
        rows = connection.execute("select word from pg_get_keywords() where catcode in ('R', 'T')")
        reserved = {word for (word,) in rows}
        assert {word for word in reserved if column_types.quoted(word) == word} == set()
        query = "select quote_ident('title'), quote_ident('order')"
        assert connection.execute(query).fetchone() == (
            column_types.quoted("title"),
            column_types.quoted("order"),
        )


# Patterns


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (r"^[^\u0000-\u001f\u007f]+$", r"^[^\u0000-\u001f\u007f]+$"),
        (r"^[\x20-\x7e]*$", r"^[\u0020-\u007e]*$"),
        (r"^\d{2,4}\w$", r"^[0-9]{2,4}[A-Za-z0-9_]$"),
        (r"^[\w\d.-]$", r"^[A-Za-z0-9_0-9.-]$"),
        (r"^(?:a|b)\.(c)?$", r"^(?:a|b)\.(c)?$"),
        (r"^\/\-\:$", r"^/-:$"),
        (r"^[[:alpha:]$", r"^[\[:alpha:]$"),
        (r"^[\]\\^-]$", r"^[\]\\^-]$"),
        (r"^(?=a)a$", None),
        (r"^(a)\1$", None),
        (r"^\p{L}$", None),
        (r"^\s$", None),
        (r"^\bb$", None),
        (r"^a{1,300}$", None),
        (r"^[\S]$", None),
        (r"^[a&&b]$", None),
        (r"^[\ud83d]$", None),
        (r"^{$", None),
    ],
)
def test_a_pattern_is_translated_for_postgresql_or_checked_by_the_service_alone(
    pattern: str, expected: str | None
) -> None:
    assert regex_translation.to_postgres(pattern) == expected


def _classes() -> st.SearchStrategy[str]:
    parts = [
        "a",
        "z-",
        "0-9",
        r"\d",
        r"\w",
        r"\]",
        "[",
        r"\\",
        r"\u00e9",
        r"\x41-\x43",
        "^",
        " ",
        ".",
        "ü",
        r"\-",
        "𐍈",
        ":",
        "=",
        ",",
    ]
    inner = st.lists(st.sampled_from(parts), min_size=1, max_size=4).map("".join)
    return st.builds("[{}{}]".format, st.sampled_from(["", "^"]), inner)


def _patterns() -> st.SearchStrategy[str]:
    atoms = st.one_of(
        _classes(),
        st.sampled_from(
            [
                "a",
                "Z",
                "0",
                ".",
                r"\d",
                r"\D",
                r"\w",
                r"\W",
                r"\.",
                r"\/",
                r"\n",
                r"\u0416",
                "é",
                "𐍈",
                "-",
                ":a",
                "%",
                "'",
                r"\$",
            ]
        ),
    )
    counted = st.builds(
        "{}{}".format, atoms, st.sampled_from(["", "", "*", "+", "?", "{2}", "{1,3}", "*?"])
    )
    runs = st.lists(counted, min_size=1, max_size=4).map("".join)
    return st.builds("^({}|(?:{}))$".format, runs, runs)


@settings(max_examples=300, deadline=None)
@given(pattern=_patterns(), data=st.data())
@example(pattern="^[a-z ]*$", data=None)
@example(pattern="^[z-z-a]$", data=None)
def test_the_database_accepts_every_value_that_the_pattern_accepts(
    pattern: str, data: Any, connection: "psycopg.Connection[Any]"
) -> None:
    expression = regex_translation.to_postgres(pattern)
    try:
        warnings.simplefilter("error")
        validator = jsonschema_rs.Draft4Validator({"type": "string", "pattern": pattern})
        strategy = st.from_regex(re.compile(pattern), fullmatch=True)
    except (ValueError, Warning, re.error):  # the contract is rejected
        return
    if expression is None:
        return
    connection.execute("select 'a' ~ %s::text", (expression,))
    if data is None:
        return
    text = data.draw(strategy.filter(lambda t: "\0" not in t and _is_text(t)))
    if validator.is_valid(text):
        query = "select %s::text ~ %s::text"
        assert connection.execute(query, (text, expression)).fetchone() == (True,), (pattern, text)


def _is_text(text: str) -> bool:
    return not any(0xD800 <= ord(c) < 0xE000 for c in text)


@pytest.fixture(scope="module")
def connection(database: Database) -> Any:
    with psycopg.connect(database.app_url, autocommit=True) as connected:
        yield connected


# References


def test_deleting_an_organization_deletes_all_its_rows_whatever_references_them(
    postgres: Postgres, tmp_path: Path
) -> None:
    database = database_of(postgres, BY_NAME["clinic"], tmp_path)
    org, clinic, doctor, mentor, patient = (ids.new() for _ in range(5))
    with psycopg.connect(database.superuser_url) as superuser:
        insert = superuser.execute
        insert("insert into organizations (id, name) values (%s, 'A')", (org,))
        insert("insert into clinics (org_id, id, name) values (%s, %s, 'C')", (org, clinic))
        for id, license, mentor_id in ((mentor, "AAAAAA", None), (doctor, "BBBBBB", mentor)):
            insert(
                "insert into doctors (org_id, id, clinic_id, name, license, mentor_id)"
                " values (%s, %s, %s, 'D', %s, %s)",
                (org, id, clinic, license, mentor_id),
            )
        insert(
            "insert into patients (org_id, id, doctor_id, name, born)"
            " values (%s, %s, %s, 'P', '2000-02-29')",
            (org, patient, doctor),
        )
        insert(
            "insert into visits (org_id, id, patient_id, doctor_id, day)"
            " values (%s, %s, %s, %s, '2026-11-23')",
            (org, ids.new(), patient, doctor),
        )
        superuser.commit()
        for table, id in (("doctors", doctor), ("doctors", mentor), ("clinics", clinic)):
            with pytest.raises(psycopg.errors.ForeignKeyViolation):
                superuser.execute(f"delete from {table} where id = %s", (id,))
            superuser.rollback()
        superuser.execute("delete from organizations where id = %s", (org,))
        for table in ("clinics", "doctors", "patients", "visits"):
            assert superuser.execute(f"select from {table}").rowcount == 0
