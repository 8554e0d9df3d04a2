"""The certificate on other contracts: those of tests/contracts/resources/, and tables that no
operation fills."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from hypothesis import settings

from db import ids
from evidence.certificate import runs, seeds
from evidence.certificate.matrix import shows_text, uncoverable
from evidence.certificate.results import Certificate
from evidence.certificate.runs import Target
from evidence.certificate.values import Uncoverable, sample
from openapi import contract
from openapi.contract import Contract
from tests.platform.fix_planner import database_of
from tests.platform.fix_postgres import Database, Postgres
from tests.platform.fix_resources import CONTRACTS, NAMES
from tests.platform.fix_service import serving

DESK = yaml.safe_load((CONTRACTS / "ticket_desk.yaml").read_text())
COMMENTS = "/orgs/{org_id}/tickets/{ticket_id}/comments"


MATRIX = ("matrix",)


@contextmanager
def served(file: Path, postgres: Postgres, folder: Path) -> Iterator[tuple[Target, Database]]:
    database = database_of(postgres, file, folder)
    settings = {"CONTRACT": str(file), "RATE_LIMITS": "false", "DATABASE_CONNECTIONS": "1"}
    command = ("-m", "tests.platform.app_with_contract")
    with serving(folder, database.app_url, command=command, **settings) as service:
        yield Target("127.0.0.1", service.port, service.keys_dir), database


def faults(whole: Certificate) -> list[str]:
    cells = [cell for one in whole.runs for cell in one.cells]
    told = [f"{c.operation} {e.probe}: {f}" for c in cells for e in c.evidence for f in e.faults]
    return [*whole.faults, *told]


@pytest.mark.parametrize("name", NAMES)
def test_the_resources_of_any_contract_are_covered(
    name: str, postgres: Postgres, tmp_path: Path
) -> None:
    file = CONTRACTS / f"{name}.yaml"
    with served(file, postgres, tmp_path) as (service, database):
        whole = runs.remote(contract.load(file), service, database.superuser_url, MATRIX, str)
        assert faults(whole) == []
        assert whole.figures["cells_by_state"]["pass"] > 600


@pytest.fixture
def derandomized() -> Iterator[None]:
    """Have Hypothesis make the same examples each time, as it does where `CI` is set."""
    before = settings.get_current_profile_name()
    settings.load_profile("ci")
    yield
    settings.load_profile(before)


@pytest.mark.usefixtures("derandomized")
def test_texts_of_a_pattern_are_fresh_until_there_are_no_more() -> None:
    code = {"type": "string", "pattern": "^[B-Y]{3}-[0-9]{4}$", "maxLength": 8}
    assert len({sample(code, {}, "Word") for _ in range(300)}) == 300
    pair = {"type": "string", "pattern": "^(left|right)$"}
    assert {sample(pair, {}, "Word") for _ in range(9)} == {"left", "right"}
    for nothing in ({"minLength": 9}, {"pattern": "^(?!a)a$"}):
        with pytest.raises(Uncoverable, match="no text can be made for `code`"):
            sample(code | nothing, {}, "Word", "code")


def written(folder: Path, document: Any) -> Path:
    file = folder / "openapi.yaml"
    file.write_text(yaml.safe_dump(document, sort_keys=False))
    return file


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A contract whose comments only a handler of somebody's own could write."""
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
def handled(file: Path) -> Contract:
    return contract.load(file)


def test_a_table_that_no_operation_fills_is_covered(handled: Contract) -> None:
    (seed,) = seeds.seeds(handled)
    assert (seed.table.name, seed.parameter) == ("comments", "comment_id")
    assert uncoverable(handled, {seed.parameter}) == []
    assert uncoverable(handled, set()) != []


def test_the_certificate_finds_no_fault_and_says_what_it_cannot_fill(
    handled: Contract, file: Path, postgres: Postgres, tmp_path: Path
) -> None:
    with served(file, postgres, tmp_path) as (service, database):
        assert faults(runs.remote(handled, service, database.superuser_url, MATRIX, str)) == []
        blind = runs.remote(handled, service, None, MATRIX, str)
        (fault,) = blind.faults
        assert fault.endswith("comments: no operation fills it, and no --database-url is given")


def test_what_no_row_can_be_made_of_is_said(
    handled: Contract, file: Path, postgres: Postgres, tmp_path: Path
) -> None:
    database = database_of(postgres, file, tmp_path)
    (seed,) = seeds.seeds(handled)
    nowhere = {"org_id": ids.new(), "ticket_id": ids.new()}
    with (
        psycopg.connect(database.superuser_url, autocommit=True) as superuser,
        pytest.raises(Uncoverable, match=r"comments: no row could be inserted: .*foreign key"),
    ):
        seeds.insert_seeds(superuser, seed, nowhere)


def test_an_answer_of_counts_alone_shows_no_tenants_rows(handled: Contract) -> None:
    operation = handled.operations["tickets.get"]
    assert shows_text(operation)
    counts = {
        "type": "object",
        "properties": {"open": {"type": "integer"}, "as_of": {"type": "string", "enum": ["now"]}},
    }
    media = {"content": {"application/json": {"schema": counts}}}
    assert not shows_text(replace(operation, responses={"200": media}))
