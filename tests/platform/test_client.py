"""The client that `make client` writes: it takes the whole contract, is typed, and works."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dev.scaffold.__main__ import write
from dev.scaffold.request import ResourceRequest
from evidence.harness.processes import ROOT
from openapi import contract
from openapi.contract import Contract
from openapi.object_tree import walk
from tests.platform.fix_service import Service
from tests.platform.test_scaffold import EVERY, TASKS

FLOW = Path(__file__).parent / "client_flow.py"
# In the generated package, since it reads every model: what an example is read as says the same.
ROUND_TRIPS = """
import json, sys
from covenant_client import models
for name, example in json.load(sys.stdin):
    model = getattr(models, name)
    read = model.from_dict(example)
    again = json.loads(json.dumps(read.to_dict()).replace("+00:00", "Z"))
    assert again == example, (name, example, again)
    assert model.from_dict(again) == read
"""


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Contract:
    """The contract, with two resources more that have every type."""
    folder = tmp_path_factory.mktemp("contract")
    file = Path(shutil.copy(contract.DEFAULT, folder / "openapi.yaml"))
    for name, fields in (("tasks", TASKS), ("things", EVERY)):
        verbs = "create list get replace update delete"
        write(file, contract.DEFAULT_HANDLERS, ResourceRequest(name, fields, verbs))
    return contract.load(file)


@pytest.fixture(scope="module")
def client(wide: Contract, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The generated client, as `make client` writes it: a warning is a fault."""
    folder = tmp_path_factory.mktemp("client")
    (folder / "openapi.json").write_text(json.dumps(contract.public_document(wide)))
    command = [sys.executable, "-m", "openapi_python_client", "generate", "--fail-on-warning"]
    done = subprocess.run(
        [*command, "--path", "openapi.json", "--output-path", "client"],
        cwd=folder,
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "client"


def python(client: Path, *arguments: str, stdin: str = "") -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        env={**os.environ, "PYTHONPATH": str(client)},
        input=stdin,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_client_signs_in_and_works_in_an_organization(client: Path, service: Service) -> None:
    python(client, str(FLOW), service.url)


def test_every_operation_has_a_function(client: Path, wide: Contract) -> None:
    modules = {file.stem for file in client.rglob("api/*/*.py")} - {"__init__"}
    assert modules == {id.replace(".", "_") for id in wide.operations}


def test_every_example_is_read_and_written_as_it_is(client: Path, wide: Contract) -> None:
    examples = list(examples_of(wide.document))
    assert {name for name, _ in examples} >= {"Project", "Problem", "Thing", "ThingPatch", "Token"}
    python(client, "-c", ROUND_TRIPS, stdin=json.dumps(examples))


def examples_of(document: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return (schema, example) of every body of the contract."""
    media = [node for _, kind, node in walk(document) if kind == "media"]
    refs = [(m["schema"].get("$ref", ""), m["example"]) for m in media if "example" in m]
    return [(ref.rpartition("/")[2], example) for ref, example in refs if ref]


def test_a_type_checker_finds_wrong_use(client: Path, tmp_path: Path) -> None:
    wrong = {
        "field": ('ProjectRequest(name="Apollo")', "ProjectRequest(name=7)", "incompatible type"),
        "name": ("project.created_at", "project.made_at", 'has no attribute "made_at"'),
        "id": ("(org.id, project.id, client=rival)", '(org.id, "x", client=rival)', '"str"'),
        "answer": ("assert isinstance(org, Organization)", "assert org", 'has no attribute "id"'),
    }
    right = FLOW.read_text()
    for name, (old, new, _) in {**wrong, "right": ("", "", "")}.items():
        assert old in right
        (tmp_path / f"{name}.py").write_text(right.replace(old, new, 1))
    options = ["--strict", "--no-incremental", "--follow-imports=silent", "--config-file="]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, *(f"{name}.py" for name in ("right", *wrong))],
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(client)},
        capture_output=True,
        text=True,
    )
    faults = [line for line in done.stdout.splitlines() if ": error:" in line]
    assert {line.partition(".py")[0] for line in faults} == wrong.keys(), done.stdout
    for name, (*_, reason) in wrong.items():
        assert any(line.startswith(name) and reason in line for line in faults), done.stdout


def test_the_document_for_generators_is_the_one_that_clients_are_served() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dev.public_contract"], cwd=ROOT, capture_output=True, text=True
    )
    assert json.loads(done.stdout) == contract.public_document(contract.load())
