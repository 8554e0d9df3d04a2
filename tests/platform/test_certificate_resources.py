"""The certificate of other contracts: those of contracts/resources/, and seeded tables."""

import copy
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from hypothesis import settings

from db import ids
from db.sql import pagination
from evidence.certificate import matrix, runs, seeds
from evidence.certificate.attack_vectors import AttackVector
from evidence.certificate.client import Client
from evidence.certificate.creators import coverage_issues
from evidence.certificate.environments import RunningService
from evidence.certificate.identities import build_world
from evidence.certificate.operations import returns_text
from evidence.certificate.probes import Rows, run_cases
from evidence.certificate.request_builder import control_cursor
from evidence.certificate.results import Certificate
from evidence.certificate.runs import Part
from evidence.certificate.values import Uncoverable, sample
from openapi import contract
from openapi.contract import Contract
from tests.platform.fix_planner import database_of
from tests.platform.fix_postgres import Database, Postgres
from tests.platform.fix_resources import CONTRACTS, NAMES
from tests.platform.fix_service import serving

DESK = yaml.safe_load((CONTRACTS / "ticket_desk.yaml").read_text())
COMMENTS = "/orgs/{org_id}/tickets/{ticket_id}/comments"


@contextmanager
def served(
    file: Path, postgres: Postgres, folder: Path
) -> Iterator[tuple[RunningService, Database]]:
    """Run the service of a contract, on a new database with its tables."""
    database = database_of(postgres, file, folder)
    settings = {"CONTRACT": str(file), "RATE_LIMITS": "false", "DATABASE_CONNECTIONS": "1"}
    command = ("-m", "tests.platform.app_with_contract")
    with serving(folder, database.app_url, command=command, **settings) as service:
        yield RunningService("127.0.0.1", service.port, service.keys_dir), database


def certify(checked: Contract, service: RunningService, database_url: str | None) -> Certificate:
    return runs.certify_service(checked, service, database_url, (Part.MATRIX,), str)


@pytest.mark.parametrize("name", NAMES)
def test_the_resources_of_any_contract_are_covered(
    name: str, postgres: Postgres, tmp_path: Path
) -> None:
    file = CONTRACTS / f"{name}.yaml"
    with served(file, postgres, tmp_path) as (service, database):
        certificate = certify(contract.load(file), service, database.superuser_url)
        assert certificate.all_issues == []
        assert certificate.figures["cases_by_state"]["pass"] > 600


def test_a_list_that_is_sorted_by_default_is_covered(postgres: Postgres, tmp_path: Path) -> None:
    document = copy.deepcopy(DESK)
    (sort,) = [
        parameter
        for parameter in document["paths"]["/orgs/{org_id}/tickets"]["get"]["parameters"]
        if parameter.get("name") == "sort"
    ]
    sort["schema"]["default"] = sort["schema"]["enum"][0]
    file = written(tmp_path, document)
    checked = contract.load(file)
    with (
        served(file, postgres, tmp_path) as (service, _),
        closing(Client(service.host, service.port)) as client,
    ):
        world = build_world(checked, client, service.keys_dir, None)
        plans = [plan for plan in matrix.plans(checked) if plan.operation.id == "tickets.list"]
        cases = list(run_cases(world, plans, Rows(None, []), str))
    assert {case.state for case in cases if case.attack_vector == AttackVector.CURSOR} == {"pass"}
    assert [issue for case in cases for issue in case.issues] == []


@pytest.mark.parametrize("value", [None, "Printer on fire", "01a22096-6d18-7c60-ab89-4deeeb062d2a"])
def test_the_control_cursor_of_a_sorted_list_has_the_same_form(value: str | None) -> None:
    id = ids.new()
    cursor = pagination.encode_sorted_cursor("-title", value, id)
    control = control_cursor(cursor)
    sort, control_value, control_id = pagination.decode_sorted_cursor(control)
    assert (sort, control_value, len(control)) == ("-title", value, len(cursor))
    assert control_id != id


def test_the_control_cursor_of_a_list_is_another_id() -> None:
    cursor = pagination.encode_cursor(ids.new())
    control = control_cursor(cursor)
    assert control != cursor
    assert pagination.decode_cursor(control) != pagination.decode_cursor(cursor)


@pytest.fixture
def derandomized() -> Iterator[None]:
    """Make Hypothesis generate the same examples each time, as it does where `CI` is set."""
    before = settings.get_current_profile_name()
    settings.load_profile("ci")
    yield
    settings.load_profile(before)


@pytest.mark.usefixtures("derandomized")
def test_texts_of_a_pattern_are_distinct_until_there_are_no_more() -> None:
    code = {"type": "string", "pattern": "^[B-Y]{3}-[0-9]{4}$", "maxLength": 8}
    assert len({sample(code, {}, "Prefix") for _ in range(300)}) == 300
    pair = {"type": "string", "pattern": "^(left|right)$"}
    assert {sample(pair, {}, "Prefix") for _ in range(9)} == {"left", "right"}
    for contradiction in ({"minLength": 9}, {"pattern": "^(?!a)a$"}):
        with pytest.raises(Uncoverable, match="cannot generate a text for `code`"):
            sample(code | contradiction, {}, "Prefix", "code")


def written(folder: Path, document: Any) -> Path:
    file = folder / "openapi.yaml"
    file.write_text(yaml.safe_dump(document, sort_keys=False))
    return file


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A contract whose comments only a custom handler can write."""
    document = copy.deepcopy(DESK)
    del document["paths"][COMMENTS]["post"]
    (table,) = (
        schema["x-table"]
        for schema in document["components"]["schemas"].values()
        if schema.get("x-table", {}).get("name") == "comments"
    )
    table["grants"] = ["insert"]
    return written(tmp_path_factory.mktemp("contract"), document)


@pytest.fixture(scope="module")
def without_create(file: Path) -> Contract:
    return contract.load(file)


def test_a_table_that_no_operation_fills_is_covered(without_create: Contract) -> None:
    (seed,) = seeds.seeds(without_create)
    assert (seed.table.name, seed.parameter) == ("comments", "comment_id")
    assert coverage_issues(without_create, {seed.parameter}) == []
    assert coverage_issues(without_create, set()) != []


def test_a_seeded_table_is_certified_and_without_a_database_it_is_an_issue(
    without_create: Contract, file: Path, postgres: Postgres, tmp_path: Path
) -> None:
    with served(file, postgres, tmp_path) as (service, database):
        assert certify(without_create, service, database.superuser_url).all_issues == []
        (issue,) = certify(without_create, service, None).all_issues
        assert issue.endswith("comments: no operation fills it, and --database-url is missing")


def test_a_row_that_cannot_be_inserted_is_reported(
    without_create: Contract, file: Path, postgres: Postgres, tmp_path: Path
) -> None:
    database = database_of(postgres, file, tmp_path)
    (seed,) = seeds.seeds(without_create)
    nonexistent = {"org_id": ids.new(), "ticket_id": ids.new()}
    with (
        psycopg.connect(database.superuser_url, autocommit=True) as superuser,
        pytest.raises(Uncoverable, match=r"comments: cannot insert a row: .*foreign key"),
    ):
        seeds.insert_seed(superuser, seed, nonexistent)


def test_a_response_with_counts_only_identifies_no_tenant(without_create: Contract) -> None:
    operation = without_create.operations["tickets.get"]
    assert returns_text(operation)
    counts = {
        "type": "object",
        "properties": {"open": {"type": "integer"}, "as_of": {"type": "string", "enum": ["now"]}},
    }
    media = {"content": {"application/json": {"schema": counts}}}
    assert not returns_text(replace(operation, responses={"200": media}))
