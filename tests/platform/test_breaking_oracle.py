"""The breaking gate compared with oasdiff: what oasdiff calls an error, the gate never calls safe.

Install it with `go install github.com/oasdiff/oasdiff@latest`.
"""

import copy
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dev.breaking.change import Severity
from tests.platform.fix_tools import not_run
from tests.platform.test_breaking import BASE, CASES, edited, verdict

ERROR = 3  # a level of oasdiff
SCHEMAS: tuple[tuple[str | int, ...], ...] = (
    ("components", "schemas", "ThingRequest", "properties", "name"),
    ("components", "schemas", "ThingRequest", "properties", "size"),
    ("components", "schemas", "ThingRequest", "properties", "tags"),
    ("components", "schemas", "ThingRequest", "properties", "labels"),
    ("components", "schemas", "Thing", "properties", "size"),
    ("components", "schemas", "Thing", "properties", "labels"),
    ("paths", "/orgs/{org_id}/things", "get", "parameters", 0, "schema"),
    ("paths", "/orgs/{org_id}/things", "get", "responses", "200", "headers", "X-Total", "schema"),
)
# None removes the key.
EDITS: dict[str, tuple[Any, ...]] = {
    "type": ("string", "integer", "number", "array"),
    "format": (None, "uuid"),
    "pattern": (None, "^x$"),
    "enum": (None, ["a"]),
    "nullable": (True,),
    "default": (None, 7),
    "minLength": (None, 0, 3),
    "maxLength": (None, 3, 500),
    "minimum": (None, -5, 5),
    "maximum": (None, 1, 1000),
    "exclusiveMinimum": (True,),
    "exclusiveMaximum": (None, True),
    "multipleOf": (None, 0.25, 1, 3),
    "minItems": (None, 2),
    "maxItems": (None, 1, 1000),
    "uniqueItems": (None, True),
    "additionalProperties": (
        None,
        False,
        True,
        {},
        {"type": "string", "maxLength": 500},
        {"type": "string", "maxLength": 1},
        {"type": "integer"},
    ),
    "readOnly": (True,),
    "writeOnly": (True,),
}


@pytest.fixture(scope="module")
def oasdiff() -> str:
    folders = (*map(Path, os.get_exec_path()), Path.home() / "go" / "bin")
    programs = [str(folder / "oasdiff") for folder in folders if (folder / "oasdiff").exists()]
    if not programs:
        not_run("oasdiff is not installed (go install github.com/oasdiff/oasdiff@latest)")
    return programs[0]


def errors(program: str, folder: Path, new: dict[str, Any]) -> list[str]:
    """Return what oasdiff calls breaking in a contract that replaces the base."""
    files = folder / "old.json", folder / "new.json"
    for file, document in zip(files, (BASE, new), strict=True):
        file.write_text(json.dumps(document))
    command = [program, "breaking", "--format", "json", *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [e["text"] for e in json.loads(done.stdout or "[]") if e["level"] == ERROR]


def is_safe(new: dict[str, Any]) -> bool:
    return {change.severity for change, _ in verdict(new).changes} <= {Severity.SAFE}


def test_the_gate_reports_each_case_that_oasdiff_reports(oasdiff: str, tmp_path: Path) -> None:
    reported = 0
    for case in CASES:
        dotted, value = case["set"] if "set" in case else (case["drop"], None)
        new = edited((dotted, value))
        if found := errors(oasdiff, tmp_path, new):
            reported += 1
            assert not is_safe(new), (case["case"], found)
    assert reported >= 30


def edits() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield contracts that differ from the base by one key of one schema."""
    for path in SCHEMAS:
        for key, values in EDITS.items():
            for value in values:
                new = copy.deepcopy(BASE)
                schema: Any = new
                for name in path:
                    schema = schema[name]
                # In OpenAPI 3.0 these two mean nothing without the limit.
                means_nothing = key.startswith("exclusive") and "maximum" not in schema
                if means_nothing or schema.get(key) == value:
                    continue
                schema[key] = value
                if value is None:
                    del schema[key]
                yield f"{path}: {key} {value}", new


def test_the_gate_reports_each_edit_that_oasdiff_reports(oasdiff: str, tmp_path: Path) -> None:
    reported = 0
    for name, new in edits():
        if found := errors(oasdiff, tmp_path, new):
            reported += 1
            assert not is_safe(new), (name, found)
    assert reported >= 80
