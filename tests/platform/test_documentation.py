"""The reference pages list what the code has, and their examples are valid."""

import ast
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from codegen import validation
from dev import lint
from evidence.harness.processes import ROOT
from openapi import contract
from openapi.contract import Contract
from service.http.problems import CODES
from service.identity import keys
from service.settings import Settings
from tests.platform.fix_docs import DOCS, blocks, rows, section

BASE = ROOT / "tests/platform/contracts/reference_base.yaml"
EXTENSIONS = yaml.safe_load((ROOT / "openapi/extensions.schema.json").read_text())
REFERENCE = DOCS / "contract-reference.md"
CHANGES = DOCS / "change-the-contract.md"
OWN_CODE = "## Add an operation with your own code"
OTHER_COMMANDS_SETTINGS = {"MIGRATION_DATABASE_URL", "TEST_DATABASE_URL", "TESTCONTAINERS"}
NAME = re.compile(r"`([^`]+)`")
WRITTEN_FILE = re.compile(r"`((?:db|handlers)/[a-z/]+\.py)`:\n\n```python\n(.*?)^```$", re.S | re.M)
TARGET = re.compile(r"^([a-z-]+):.*## ", re.MULTILINE)


def owners_by_key() -> dict[str, set[str]]:
    """Return the kinds of objects that may have each x- key."""
    owners: dict[str, set[str]] = {}
    for owner, schema in EXTENSIONS["properties"].items():
        for key in schema["properties"]:
            owners.setdefault(key, set()).add(owner.replace("_", " "))
    return owners


def schema_of(key: str) -> dict[str, Any]:
    homes = EXTENSIONS["properties"].values()
    return next(home["properties"][key] for home in homes if key in home["properties"])


def members(schema: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, bool]]:
    """Yield (dotted name, is required) of every member of an x- key, `*` for any name."""
    while "$ref" in schema:
        schema = EXTENSIONS["$defs"][schema["$ref"].rpartition("/")[2]]
    for name, member in schema.get("properties", {}).items():
        yield f"{prefix}{name}", name in schema.get("required", ())
        yield from members(member, f"{prefix}{name}.")
    if isinstance(additional := schema.get("additionalProperties"), dict):
        yield from members(additional, f"{prefix}*.")


def merged(below: Any, above: Any) -> Any:
    if not isinstance(below, dict) or not isinstance(above, dict):
        return above
    return below | {key: merged(below.get(key), value) for key, value in above.items()}


def load(document: Any, file: Path) -> Contract:
    file.write_text(yaml.safe_dump(document, sort_keys=False))
    return contract.load(file, handlers=None)


def test_every_problem_is_listed_with_its_status_and_title() -> None:
    listed = rows(section(DOCS / "problems.md", "## Codes"))
    expected = [(code, str(status), title) for code, (status, title) in CODES.items()]
    assert [(NAME.findall(code)[0], status, title) for code, status, title in listed] == expected


@pytest.mark.parametrize("code", CODES)
def test_every_problem_has_its_meaning_cause_and_remedy(code: str) -> None:
    text = section(DOCS / "problems.md", f"### {code}")
    assert re.findall(r"^\*\*(.+?):\*\*", text, re.MULTILINE) == ["Meaning", "Cause", "What to do"]


def test_every_setting_is_listed_once() -> None:
    listed = [NAME.findall(row[0])[0] for row in rows((DOCS / "settings.md").read_text())]
    fields = {name.upper() for name in Settings.model_fields}
    assert sorted(listed) == sorted(set(listed))
    assert fields <= set(listed)
    assert set(listed) - fields == OTHER_COMMANDS_SETTINGS


def test_every_default_of_a_setting_is_right() -> None:
    table = {NAME.findall(row[0])[0]: row[1] for row in rows((DOCS / "settings.md").read_text())}
    for name, field in Settings.model_fields.items():
        default = field.get_default()
        if not field.is_required() and default not in (None, ()):
            text = str(default).lower() if isinstance(default, bool) else f"{default}"
            assert table[name.upper()] == f"`{text}`"


def test_every_make_command_is_listed_once() -> None:
    listed = [
        NAME.findall(row[0])[0].split()[1]
        for row in rows((DOCS / "make-commands.md").read_text())
        if row[0].startswith("`make ")
    ]
    assert sorted(listed) == sorted(TARGET.findall((ROOT / "dev/platform.mk").read_text()))


def test_every_x_key_is_listed_with_the_objects_that_may_have_it() -> None:
    listed = rows(section(REFERENCE, "## Where the x- keys may be"))
    owners = {NAME.findall(key)[0]: set(where.split(", ")) for key, where, _ in listed}
    assert owners == owners_by_key()


@pytest.mark.parametrize("key", owners_by_key())
def test_every_member_of_an_x_key_is_listed_and_marked_if_required(key: str) -> None:
    listed = {}
    for row in rows(section(REFERENCE, f"### {key}")):
        for part in row[0].split(", "):
            listed[NAME.findall(part)[0]] = part.endswith("*")
    expected = dict(members(schema_of(key)))
    containers = {name for name in expected if any(n.startswith(f"{name}.") for n in expected)}
    assert listed.keys() <= expected.keys()
    assert expected.keys() - containers <= listed.keys()
    assert listed == {name: expected[name] for name in listed}


@pytest.mark.parametrize("key", owners_by_key())
def test_the_example_of_an_x_key_is_a_valid_contract(key: str, tmp_path: Path) -> None:
    (example,) = [b.text for b in blocks(section(REFERENCE, f"### {key}")) if b.language == "yaml"]
    assert f"{key}:" in example
    base = yaml.safe_load(BASE.read_text())
    loaded = load(merged(base, yaml.safe_load(example)), tmp_path / "contract.yaml")
    validation.check(loaded)


def test_a_contract_with_every_example_is_valid(tmp_path: Path) -> None:
    document = yaml.safe_load(BASE.read_text())
    for block in blocks(section(REFERENCE, "## The x- keys")):
        document = merged(document, yaml.safe_load(block.text))
    validation.check(load(document, tmp_path / "contract.yaml"))


@pytest.fixture(scope="module")
def tree_with_own_operation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree with the operation, the statement and the handler of the guide."""
    folder = tmp_path_factory.mktemp("tree")
    for package in ("openapi", "handlers", "service", "db"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, folder / package, ignore=ignored)
    text = section(CHANGES, OWN_CODE)
    paths = next(block.text for block in blocks(text) if block.language == "yaml")
    file = folder / "openapi/openapi.yaml"
    document = yaml.safe_load(file.read_text())
    document["paths"] |= yaml.safe_load(paths)
    file.write_text(yaml.safe_dump(document, sort_keys=False))
    files = dict(WRITTEN_FILE.findall(text))
    assert {path.split("/")[0] for path in files} == {"db", "handlers"}
    for path, source in files.items():
        (folder / path).write_text(source)
    return folder


def test_the_operation_of_the_guide_passes_the_reader_and_the_linter(
    tree_with_own_operation: Path,
) -> None:
    file = tree_with_own_operation / "openapi/openapi.yaml"
    loaded = contract.load(file, tree_with_own_operation / "handlers")
    assert lint.lint(loaded) == []


def test_the_service_accepts_the_handler_of_the_guide(
    tree_with_own_operation: Path, tmp_path: Path
) -> None:
    keys.create_key(tmp_path / "keys", time.time())
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("COV")}
    done = subprocess.run(
        [sys.executable, "-m", "service", "check"],
        cwd=tree_with_own_operation,
        env=inherited
        | {
            "DATABASE_URL": "postgresql://covenant_app@127.0.0.1:1/covenant",
            "KEYS_DIR": str(tmp_path / "keys"),
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.stem)
def test_every_block_of_python_and_yaml_can_be_parsed(page: Path) -> None:
    for block in blocks(page.read_text()):
        if block.language == "python":
            # Statements such as `async with` are only valid in a function.
            indented = "".join(f"    {line}" for line in block.text.splitlines(keepends=True))
            ast.parse(f"async def example():\n{indented}")
        elif block.language == "yaml":
            yaml.safe_load(block.text)


def test_every_page_of_the_site_is_in_its_navigation() -> None:
    trees = re.findall(r"^```\{toctree\}\n(.*?)^```$", (DOCS / "index.md").read_text(), re.S | re.M)
    listed = [line for tree in trees for line in tree.splitlines() if line and line[0] != ":"]
    assert sorted([*listed, "index"]) == sorted(page.stem for page in DOCS.glob("*.md"))
