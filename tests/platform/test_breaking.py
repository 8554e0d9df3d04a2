"""`make breaking`: every change is classified, and breaking ones must be acknowledged."""

import copy
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dev.breaking.change import Severity
from dev.breaking.gate import GateError, Verdict, compare_revisions, parse_revision, report
from openapi.contract import ContractError

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent / "contracts" / "breaking"
BASE: dict[str, Any] = yaml.safe_load((HERE / "base.yaml").read_text())
CASES: list[dict[str, Any]] = yaml.safe_load((HERE / "cases.yaml").read_text())
THINGS = "paths./orgs/{org_id}/things"
ACKNOWLEDGED = {"reason": "agreed with every client of ours"}


def verdict(new: dict[str, Any], old: dict[str, Any] = BASE) -> Verdict:
    """Return the verdict on a contract that replaces another."""
    revisions = [
        parse_revision(json.dumps(document, indent=1).encode(), name)
        for document, name in ((old, "old"), (new, "new"))
    ]
    return compare_revisions(*revisions)


def edited(*edits: tuple[str, Any]) -> dict[str, Any]:
    """Return base.yaml with the value at each dotted path replaced, or removed if it is None."""
    document = copy.deepcopy(BASE)
    for dotted, value in edits:
        *parents, last = _keys(dotted)
        node: Any = document
        for key in parents:
            node = node[key]
        if value is None:
            del node[last]
        else:
            node[last] = value
    return document


def _keys(dotted: str) -> list[Any]:
    return [int(key) if key.isdigit() and len(key) < 3 else key for key in dotted.split(".")]


def test_there_are_many_cases() -> None:
    assert len(CASES) >= 100
    assert len({case["case"] for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=[case["case"] for case in CASES])
def test_a_change_has_a_severity_a_concern_and_a_summary(case: dict[str, Any]) -> None:
    dotted, value = case["set"] if "set" in case else (case["drop"], None)
    result = verdict(edited((dotted, value)))

    changes = [change for change, _ in result.changes]
    lines = sorted(f"{c.severity} {c.concern}: {c.summary}" for c in changes)
    assert lines == case["expect"]
    assert all(change.reason for change in changes)
    assert bool(result.rejected) == any(not line.startswith("safe") for line in lines)


def test_equal_contracts_have_no_changes() -> None:
    assert verdict(BASE).changes == ()


def test_the_report_contains_file_line_and_reason() -> None:
    new = edited((f"{THINGS}.get.security", []))
    text = report(verdict(new))
    document = json.dumps(new, indent=1).splitlines()
    line = 1 + next(n for n, t in enumerate(document) if '"security": []' in t and n > 70)
    assert text.startswith("new compared with old: 0 safe, 0 breaking, 1 security-breaking\n")
    location = f"new:{line} {THINGS}.get.security"
    assert f"security-breaking {location}: authentication removed" in text
    assert "anyone can call the operation without a token" in text
    assert "For clients" in text
    assert "rejected: 1 change must be acknowledged (x-acknowledge: {reason: …}" in text
    assert text.endswith("or the major version raised above 1")


def test_a_removed_operation_is_reported_with_its_line_in_the_old_contract() -> None:
    text = report(verdict(edited(("paths./status", None))))
    line = 1 + json.dumps(BASE, indent=1).splitlines().index('   "get": {')
    assert f"breaking          old:{line} paths./status.get: operation removed" in text


def test_a_higher_major_version_may_break_everything() -> None:
    result = verdict(edited((f"{THINGS}.get.security", []), ("info.version", "2.0.0")))
    assert Severity.SECURITY_BREAKING in {change.severity for change, _ in result.changes}
    assert result.rejected == []


def test_a_higher_minor_version_may_break_nothing() -> None:
    assert verdict(edited((f"{THINGS}.post", None), ("info.version", "1.5.0"))).rejected


def test_a_change_acknowledged_at_its_operation_is_accepted() -> None:
    result = verdict(
        edited((f"{THINGS}.get.security", []), (f"{THINGS}.get.x-acknowledge", ACKNOWLEDGED))
    )
    assert result.rejected == []
    assert f"acknowledged: {ACKNOWLEDGED['reason']}" in report(result)
    assert report(result).endswith("accepted")


def test_a_change_of_a_schema_is_acknowledged_in_that_schema() -> None:
    schema = "components.schemas.ThingRequest"
    change = (f"{schema}.properties.name.maxLength", 200)
    elsewhere = "components.schemas.Thing"
    assert verdict(edited(change, (f"{schema}.x-acknowledge", ACKNOWLEDGED))).rejected == []
    assert verdict(edited(change, (f"{elsewhere}.x-acknowledge", ACKNOWLEDGED))).rejected


def test_a_removed_operation_is_acknowledged_by_its_path() -> None:
    removed = (f"{THINGS}.post", None)
    assert verdict(edited(removed, (f"{THINGS}.x-acknowledge", ACKNOWLEDGED))).rejected == []


def test_a_change_that_no_node_below_can_acknowledge_is_acknowledged_at_the_root() -> None:
    removed = ("components.securitySchemes.bearer.x-tenant", None)
    assert verdict(edited(removed, ("x-acknowledge", ACKNOWLEDGED))).rejected == []


def test_the_root_cannot_acknowledge_a_change_of_an_operation() -> None:
    change = (f"{THINGS}.get.security", [])
    assert verdict(edited(change, ("x-acknowledge", ACKNOWLEDGED))).rejected


def test_an_acknowledgement_of_another_operation_does_not_count() -> None:
    result = verdict(
        edited((f"{THINGS}.get.security", []), ("paths./status.x-acknowledge", ACKNOWLEDGED))
    )
    assert [change.severity for change in result.rejected] == [Severity.SECURITY_BREAKING]


def test_an_old_acknowledgement_does_not_cover_a_new_change() -> None:
    old = edited((f"{THINGS}.get.x-acknowledge", ACKNOWLEDGED))
    new = copy.deepcopy(old)
    new["paths"]["/orgs/{org_id}/things"]["get"]["security"] = []
    assert verdict(new, old).rejected


def test_a_change_of_an_inherited_key_is_reported_once() -> None:
    changes = [change for change, _ in verdict(edited(("x-timeout", 30))).changes]
    assert [change.path for change in changes] == [("x-timeout",)]


def test_the_default_timeout_applies_to_both_contracts() -> None:
    without = edited(("x-timeout", None))
    assert verdict(edited(("x-timeout", 2)), without).changes == ()
    ((raised, _),) = verdict(edited(("x-timeout", 5)), without).changes
    assert raised.severity == Severity.SECURITY_BREAKING
    assert raised.summary == "timeout raised from 2 to 5 seconds"


def test_an_environment_without_exposure_counts_as_not_exposed() -> None:
    without = edited(("servers.0.x-environment.exposure", None))
    assert verdict(without).changes == ()
    exposed = edited(("servers.0.x-environment.exposure", "gateway"))
    ((change, _),) = verdict(exposed, without).changes
    assert change.severity == Severity.SECURITY_BREAKING


def paths_below(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every node."""
    if not isinstance(node, dict | list):
        return
    for key, child in node.items() if isinstance(node, dict) else enumerate(node):
        yield (*path, key)
        yield from paths_below(child, (*path, key))


@pytest.mark.parametrize("value", ["x", 0, -1.5, True, None, [], ["x"], {}, {"x": "x"}], ids=str)
def test_a_malformed_contract_is_compared_too(value: Any) -> None:
    for *parents, last in paths_below(BASE):
        malformed = copy.deepcopy(BASE)
        node: Any = malformed
        for key in parents:
            node = node[key]
        node[last] = value
        report(verdict(malformed))
        report(verdict(BASE, malformed))


@pytest.mark.parametrize(
    ("source", "message"),
    [(b"a: [", "new:1: document: "), (b"a: 1\na: 2", "new:2: a: ")],
)
def test_a_contract_that_is_not_valid_yaml_is_rejected(source: bytes, message: str) -> None:
    with pytest.raises((GateError, ContractError)) as error:
        parse_revision(source, "new")
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_recursive_schemas_are_rejected() -> None:
    def recursive(name: str) -> dict[str, Any]:
        ref = {"$ref": f"#/components/schemas/{name}"}
        schema = {"type": "object", "properties": {"child": ref}}
        return edited(
            (f"components.schemas.{name}", schema),
            ("components.schemas.Thing.properties.kind", ref),
        )

    with pytest.raises(GateError, match="new: cannot compare recursive schemas"):
        verdict(recursive("Tree"), recursive("Node"))


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A git repository with base.yaml as its only file, committed as openapi.yaml."""

    def git(*arguments: str) -> None:
        author = ["-c", "user.name=T", "-c", "user.email=t@example.com"]
        subprocess.run(["git", *author, *arguments], cwd=tmp_path, check=True, capture_output=True)

    (tmp_path / "openapi.yaml").write_text(yaml.safe_dump(BASE, sort_keys=False))
    git("init", "-q")
    git("add", "openapi.yaml")
    git("commit", "-q", "-m", "base")
    return tmp_path


def run_gate(
    repository: Path, revision: str = "HEAD", file: str = "openapi.yaml"
) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "dev.breaking", f"--base={revision}", f"--contract={file}"]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(repository)}
    return subprocess.run(
        command, cwd=repository, env=environment, check=False, capture_output=True, text=True
    )


def test_the_command_compares_with_a_git_revision(repository: Path) -> None:
    unchanged = run_gate(repository)
    assert (unchanged.returncode, unchanged.stderr) == (0, "")
    assert unchanged.stdout.endswith("accepted\n")

    (repository / "openapi.yaml").write_text(yaml.safe_dump(edited((f"{THINGS}.post", None))))
    changed = run_gate(repository)
    assert changed.returncode == 1
    assert "  breaking          HEAD:openapi.yaml:" in changed.stdout


@pytest.mark.parametrize(
    ("revision", "file", "message"),
    [
        ("nonsense", "openapi.yaml", "cannot read openapi.yaml of revision `nonsense`: fatal: "),
        ("--output=x", "openapi.yaml", "`--output=x` is not a git revision"),
        ("HEAD", "absent.yaml", "absent.yaml:1: document: "),
        ("HEAD", f"{HERE}/base.yaml", "must be inside the working directory"),
    ],
)
def test_the_command_explains_in_one_line_what_it_cannot_read(
    repository: Path, revision: str, file: str, message: str
) -> None:
    completed = run_gate(repository, revision, file)
    assert completed.returncode == 2
    assert message in completed.stderr
    assert completed.stderr.count("\n") == 1
