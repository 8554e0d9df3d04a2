"""The client that `make client` generates: it covers the contract, is typed, and works."""

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
# Parses every example and writes it again, with the models of the generated package.
ROUND_TRIPS = """
import json, sys
from covenant_client import models
for name, example in json.load(sys.stdin):
    model = getattr(models, name)
    parsed = model.from_dict(example)
    written = json.loads(json.dumps(parsed.to_dict()).replace("+00:00", "Z"))
    assert written == example, (name, example, written)
    assert model.from_dict(written) == parsed
"""


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Contract:
    """The contract with two more resources, which have columns of every type."""
    folder = tmp_path_factory.mktemp("contract")
    file = Path(shutil.copy(contract.DEFAULT, folder / "openapi.yaml"))
    for name, fields in (("tasks", TASKS), ("things", EVERY)):
        verbs = "create list get replace update delete"
        write(file, contract.DEFAULT_HANDLERS, ResourceRequest(name, fields, verbs))
    return contract.load(file)


@pytest.fixture(scope="module")
def client(extended: Contract, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The generated client; a warning of the generator fails the tests."""
    folder = tmp_path_factory.mktemp("client")
    (folder / "openapi.json").write_text(json.dumps(contract.public_document(extended)))
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


def run_python(client: Path, *arguments: str, stdin: str = "") -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        env={**os.environ, "PYTHONPATH": str(client)},
        input=stdin,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_client_signs_in_and_manages_projects(client: Path, service: Service) -> None:
    run_python(client, str(FLOW), service.url)


def test_every_operation_has_a_function(client: Path, extended: Contract) -> None:
    modules = {file.stem for file in client.rglob("api/*/*.py")} - {"__init__"}
    assert modules == {id.replace(".", "_") for id in extended.operations}


def test_every_example_survives_a_round_trip(client: Path, extended: Contract) -> None:
    examples = list(examples_of(extended.document))
    assert {name for name, _ in examples} >= {"Project", "Problem", "Thing", "ThingPatch", "Token"}
    run_python(client, "-c", ROUND_TRIPS, stdin=json.dumps(examples))


def examples_of(document: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return (schema name, example) of every body of the contract."""
    media = [node for _, kind, node in walk(document) if kind == "media"]
    refs = [(m["schema"].get("$ref", ""), m["example"]) for m in media if "example" in m]
    return [(ref.rpartition("/")[2], example) for ref, example in refs if ref]


def test_a_type_checker_reports_wrong_use(client: Path, tmp_path: Path) -> None:
    mistakes = {
        "field": ('ProjectRequest(name="Apollo")', "ProjectRequest(name=7)", "incompatible type"),
        "name": ("project.created_at", "project.created", 'has no attribute "created"'),
        "id": ("(org.id, project.id, client=rival)", '(org.id, "x", client=rival)', '"str"'),
        "response": ("assert isinstance(org, Organization)", "assert org", 'has no attribute "id"'),
    }
    correct = FLOW.read_text()
    for name, (old, new, _) in {**mistakes, "correct": ("", "", "")}.items():
        assert old in correct
        (tmp_path / f"{name}.py").write_text(correct.replace(old, new, 1))
    options = ["--strict", "--no-incremental", "--follow-imports=silent", "--config-file="]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            *options,
            *(f"{name}.py" for name in ("correct", *mistakes)),
        ],
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(client)},
        capture_output=True,
        text=True,
    )
    errors = [line for line in done.stdout.splitlines() if ": error:" in line]
    assert {line.partition(".py")[0] for line in errors} == mistakes.keys(), done.stdout
    for name, (*_, reason) in mistakes.items():
        assert any(line.startswith(name) and reason in line for line in errors), done.stdout


def test_generators_get_the_same_document_as_clients() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dev.public_contract"], cwd=ROOT, capture_output=True, text=True
    )
    assert json.loads(done.stdout) == contract.public_document(contract.load())
