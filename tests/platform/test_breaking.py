"""The breaking-change gate: each change has its class, and what is meant is said where it is."""

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from dev.breaking import gate as breaking_gate
from dev.breaking.change import BREAKING, SAFE, SECURITY
from dev.breaking.gate import Verdict, compare_revisions, read, report
from openapi.contract import ContractError

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent / "contracts" / "breaking"
BASE: dict[str, Any] = yaml.safe_load((HERE / "base.yaml").read_text())
CASES: list[dict[str, Any]] = yaml.safe_load((HERE / "cases.yaml").read_text())
THINGS = "paths./orgs/{org_id}/things"
MEANT = {"reason": "agreed with every client of ours"}


def judged(new: dict[str, Any], old: dict[str, Any] = BASE) -> Verdict:
    sides = [read(json.dumps(d, indent=1).encode(), n) for d, n in ((old, "old"), (new, "new"))]
    return compare_revisions(*sides)


def edited(*places: tuple[str, Any]) -> dict[str, Any]:
    """Return base.yaml with these values; None for a value takes the place away."""
    document = copy.deepcopy(BASE)
    for dotted, value in places:
        node, keys = document, _keys(dotted)
        for key in keys[:-1]:
            node = node[key]
        if value is None:
            del node[keys[-1]]
        else:
            node[keys[-1]] = value
    return document


def _keys(dotted: str) -> list[Any]:
    return [int(k) if k.isdigit() and len(k) < 3 else k for k in dotted.split(".")]


def test_there_are_many_cases() -> None:
    assert len(CASES) >= 40
    assert len({case["case"] for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=[case["case"] for case in CASES])
def test_a_change_has_its_class_and_says_whom_it_concerns(case: dict[str, Any]) -> None:
    place, value = case["set"] if "set" in case else (case["drop"], None)
    judgement = judged(edited((place, value)))

    found = sorted(f"{change.kind} {change.concerns}" for change, _ in judgement.changes)
    assert found == sorted(case["expect"])
    assert bool(judgement.refused) == any(not e.startswith(SAFE) for e in case["expect"])


def test_nothing_changes_in_the_same_contract() -> None:
    assert judged(BASE).changes == ()


def test_the_report_names_file_line_and_reason() -> None:
    text = report(judged(edited((f"{THINGS}.get.security", []))))
    document = json.dumps(edited((f"{THINGS}.get.security", [])), indent=1).splitlines()
    line = 1 + next(n for n, t in enumerate(document) if '"security": []' in t and n > 70)
    assert f"security-breaking new:{line} {THINGS}.get.security: security is dropped" in text
    assert "no token is needed any more" in text
    assert "For clients" in text
    assert "refused: 1 change needs an x-acknowledge" in text


def test_what_is_gone_is_named_by_its_line_in_the_old_contract() -> None:
    text = report(judged(edited(("paths./status", None))))
    line = 1 + json.dumps(BASE, indent=1).splitlines().index('   "get": {')
    assert f"breaking          old:{line} paths./status.get: the operation is gone" in text


def test_a_higher_major_version_may_break_everything() -> None:
    judgement = judged(edited((f"{THINGS}.get.security", []), ("info.version", "2.0.0")))
    assert SECURITY in {change.kind for change, _ in judgement.changes}
    assert judgement.refused == []


def test_a_higher_minor_version_breaks_nothing() -> None:
    assert judged(edited((f"{THINGS}.post", None), ("info.version", "1.5.0"))).refused


def test_a_change_that_is_acknowledged_where_it_is_passes() -> None:
    judgement = judged(
        edited((f"{THINGS}.get.security", []), (f"{THINGS}.get.x-acknowledge", MEANT))
    )
    assert judgement.refused == []
    assert f"acknowledged: {MEANT['reason']}" in report(judgement)


def test_a_change_of_a_schema_is_acknowledged_in_the_schema() -> None:
    schema = "components.schemas.ThingRequest"
    change = (f"{schema}.properties.name.maxLength", 200)
    assert judged(edited(change, (f"{schema}.x-acknowledge", MEANT))).refused == []
    assert judged(edited(change, ("components.schemas.Thing.x-acknowledge", MEANT))).refused


def test_an_operation_that_is_gone_is_acknowledged_by_its_path() -> None:
    assert (
        judged(edited((f"{THINGS}.post", None), (f"{THINGS}.x-acknowledge", MEANT))).refused == []
    )


def test_what_nothing_else_can_carry_is_acknowledged_at_the_root() -> None:
    lost = ("components.securitySchemes.bearer.x-tenant", None)
    assert judged(edited(lost, ("x-acknowledge", MEANT))).refused == []


def test_the_root_acknowledges_nothing_that_an_operation_could() -> None:
    assert judged(edited((f"{THINGS}.get.security", []), ("x-acknowledge", MEANT))).refused


def test_another_place_acknowledges_nothing() -> None:
    judgement = judged(
        edited((f"{THINGS}.get.security", []), ("paths./status.x-acknowledge", MEANT))
    )
    assert [change.kind for change in judgement.refused] == [SECURITY]


def test_an_old_acknowledgement_does_not_cover_a_new_change() -> None:
    old = edited((f"{THINGS}.get.x-acknowledge", MEANT))
    new = copy.deepcopy(old)
    new["paths"]["/orgs/{org_id}/things"]["get"]["security"] = []
    assert judged(new, old).refused


def test_a_key_that_is_inherited_is_reported_once() -> None:
    changes = [change for change, _ in judged(edited(("x-timeout", 30))).changes]
    assert [change.place for change in changes] == [("x-timeout",)]


def test_a_contract_that_is_no_yaml_is_refused() -> None:
    with pytest.raises((breaking_gate.GateError, ContractError)):
        read(b"a: [", "new")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    def git(*words: str) -> None:
        who = ["-c", "user.name=T", "-c", "user.email=t@example.com"]
        subprocess.run(["git", *who, *words], cwd=tmp_path, check=True, capture_output=True)

    (tmp_path / "openapi.yaml").write_text(yaml.safe_dump(BASE, sort_keys=False))
    git("init", "-q")
    git("add", "openapi.yaml")
    git("commit", "-q", "-m", "base")
    return tmp_path


def gate(repository: Path, revision: str = "HEAD") -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "dev.breaking", "--base", revision]
    command += ["--contract", "openapi.yaml"]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(repository)}
    return subprocess.run(
        command, cwd=repository, env=environment, check=False, capture_output=True, text=True
    )


def test_the_command_compares_with_a_revision(repository: Path) -> None:
    same = gate(repository)
    assert (same.returncode, same.stderr) == (0, "")
    assert same.stdout.endswith("accepted\n")

    (repository / "openapi.yaml").write_text(yaml.safe_dump(edited((f"{THINGS}.post", None))))
    other = gate(repository)
    assert other.returncode == 1
    assert f"{BREAKING}          HEAD:openapi.yaml:" in other.stdout


@pytest.mark.parametrize("revision", ["nonsense", "--output=x"])
def test_the_command_says_that_there_is_no_such_revision(repository: Path, revision: str) -> None:
    done = gate(repository, f"{revision}")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) >= 1
    assert "Traceback" not in done.stderr
