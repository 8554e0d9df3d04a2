"""What `python -m codegen` makes of a contract, refuses, and notices."""

import hashlib
import re
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml

from codegen import facts, render, validation
from codegen.__main__ import TEMPLATES, difference, existing, main
from codegen.render import Files, Overrides
from evidence.harness.processes import ROOT, generated, planted
from openapi import contract
from openapi.contract import ContractError

CONTRACTS = Path(__file__).parent / "contracts"
MINIMAL = CONTRACTS / "generate_minimal.yaml"
INVALID = sorted((CONTRACTS / "generate_invalid").glob("*.yaml"))
EXPECTED = re.compile(r"# expect: (\d+): (\S+): (.+)")
HOSTILE = [
    "a\nkind: Secret",
    '"}]\n---\nkind: ClusterRole',
    "{{ .Values.secrets }}",
    "[[ 1 + 1 ]] [% if 1 %]",
    "' #  : - !!python/object",
    "\x7f\x85\u2028\ufeff \U0001f40d \\u0041 \\n",
    "no",
    "${HOME} $(id) `id`",
]


@cache
def shipped_files() -> Files:
    return generated(contract.DEFAULT)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder with the generated files of the minimal contract, and that contract."""
    shutil.copy(MINIMAL, tmp_path / "contract.yaml")
    assert run(tmp_path) == 0
    return tmp_path


def run(root: Path, *options: str) -> int:
    """Run the generator on the contract in `root`, whose operations have no handlers."""
    handlers = root / "handlers"
    handlers.mkdir(exist_ok=True)
    (handlers / "system.py").write_text("def health(): ...\ndef ready(): ...\n")
    file = root / "contract.yaml"
    arguments = ["--contract", str(file), "--into", str(root), "--handlers", str(handlers)]
    return main([*arguments, *options])


def edited(root: Path, old: str, new: str) -> None:
    file = root / "contract.yaml"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))


def snapshot(root: Path) -> dict[str, bytes]:
    return {str(f): f.read_bytes() for f in sorted(root.rglob("*")) if f.is_file()}


# What is committed


def test_what_is_committed_is_what_the_contract_makes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check"]) == 0, capsys.readouterr().out


def test_two_runs_are_byte_identical() -> None:
    assert generated(contract.DEFAULT) == shipped_files()


def test_every_file_names_its_source_and_the_contracts_hash() -> None:
    digest = hashlib.sha256(contract.DEFAULT.read_bytes()).hexdigest()
    for path, text in shipped_files().items():
        head = "\n".join(text.splitlines()[:2])
        source = re.search(r"(codegen/templates/\S+): do not edit", head)
        assert source, path
        assert (ROOT / source[1]).is_file(), source[1]
        assert f"openapi/openapi.yaml (sha256:{digest})" in head, path


def test_no_template_mixes_two_languages() -> None:
    for file in TEMPLATES.rglob("*"):
        if file.is_file() and file.suffix == ".j2":
            assert "{{" not in file.read_text(), file
        elif file.is_file():
            assert "[[" not in file.read_text(), file
            assert "[%" not in file.read_text(), file


# --check, --diff and writing


def test_a_hand_edit_is_caught(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edited_file = tree / "charts/t/templates/deployment.yaml"
    edited_file.write_text(edited_file.read_text().replace("maxSurge: 1", "maxSurge: 2"))
    capsys.readouterr()
    assert run(tree, "--check") == 1
    assert capsys.readouterr().out == (
        "charts/t/templates/deployment.yaml: stale: run `make generate`\n"
    )
    assert run(tree) == 0
    assert run(tree, "--check") == 0


def test_a_missing_file_is_caught(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tree / "argo/production/root.yaml").unlink()
    capsys.readouterr()
    assert run(tree, "--check") == 1
    assert capsys.readouterr().out.startswith("argo/production/root.yaml: missing")


def test_an_orphan_is_caught_and_not_deleted(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    orphan = tree / "charts/t/templates/extra.yaml"
    orphan.write_text("kind: ConfigMap\n")
    capsys.readouterr()
    assert run(tree, "--check") == 1
    assert "charts/t/templates/extra.yaml: orphan" in capsys.readouterr().out
    assert run(tree) == 1
    assert orphan.exists()


def test_what_the_contract_no_longer_makes_is_deleted(tree: Path) -> None:
    edited(tree, "name: production", "name: live")
    assert run(tree, "--check") == 1
    assert run(tree) == 0
    assert not (tree / "argo/production/root.yaml").exists()
    assert (tree / "argo/live/root.yaml").exists()
    assert run(tree, "--check") == 0


def test_a_contract_edit_without_regeneration_is_caught(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edited(tree, "title: T", "title: U")
    capsys.readouterr()
    assert run(tree, "--check") == 1
    assert "charts/t/Chart.yaml: stale" in capsys.readouterr().out


def test_a_diff_shows_what_a_change_does_and_writes_nothing(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edited(tree, "https://t.example", "https://new.example")
    before = snapshot(tree)
    capsys.readouterr()
    assert run(tree, "--diff") == 0
    shown = capsys.readouterr().out
    assert snapshot(tree) == before
    changed = [line for line in shown.splitlines() if re.match(r"[+-] ", line)]
    assert changed == ['-  host: "t.example"', '+  host: "new.example"']
    assert "more files: only the contract's hash" in shown


def test_a_diff_names_new_and_deleted_files() -> None:
    lines = "".join(difference({"argo/a": "a\n"}, {"argo/b": "b\n"}))
    assert "--- a/argo/a\n+++ /dev/null\n" in lines
    assert "--- /dev/null\n+++ b/argo/b\n" in lines


def test_a_refused_contract_changes_nothing(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edited(tree, "https://t.example", "https://my_api.example")
    before = snapshot(tree)
    assert run(tree) == 2
    assert snapshot(tree) == before
    assert "contract.yaml:5: servers.0.url: 'my_api.example' is no DNS name" in (
        capsys.readouterr().err
    )


def test_a_run_that_changes_nothing_writes_nothing(tree: Path) -> None:
    before = {f: f.stat().st_mtime_ns for f in (tree / "charts").rglob("*")}
    assert run(tree) == 0
    assert {f: f.stat().st_mtime_ns for f in (tree / "charts").rglob("*")} == before


# Refusals


@pytest.mark.parametrize("file", INVALID, ids=lambda file: file.stem)
def test_what_cannot_be_honoured_is_refused_for_its_reason(file: Path) -> None:
    expected = EXPECTED.match(file.read_text())
    assert expected
    with pytest.raises(ContractError) as refusal:
        generated(file)
    (fault,) = refusal.value.issues
    assert fault.file.endswith(file.name)
    assert (str(fault.line), fault.path, fault.reason) == expected.groups()


def test_more_routes_than_an_edge_takes_are_refused() -> None:
    loaded = contract.load(MINIMAL, None)
    many = {
        f"system.x{i}": replaced(loaded.operations["system.ready"], id=f"system.x{i}")
        for i in range(validation.MAX_ROUTES)
    }
    with pytest.raises(ContractError, match="routes 1002 operations"):
        validation.check(replaced(loaded, operations={**loaded.operations, **many}))


def replaced(record: Any, **changes: Any) -> Any:
    return type(record)(**{**vars(record), **changes})


def test_a_fact_that_a_template_misspells_is_refused() -> None:
    known = facts.from_contract(contract.load(MINIMAL, None))
    for text in (
        "[% if app.prot %]x[% endif %]",
        "[[ app.prot ]]",
        "[[ app.probes.liven ]]",
        "[[ nothing ]]",
    ):
        with pytest.raises(jinja2.UndefinedError):
            render.render(known, {"charts/NAME/x.yaml.j2": text}, Overrides({}, {}))


# The contract is not trusted


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_no_value_of_a_contract_breaks_out_of_its_place(tmp_path: Path, text: str) -> None:
    document = yaml.safe_load(contract.DEFAULT.read_text())
    document["info"]["title"] = text
    document["servers"][0]["description"] = text
    bearer = document["components"]["securitySchemes"]["bearer"]
    bearer["x-token"]["issuer"] = bearer["x-token"]["audience"] = text
    body = document["paths"]["/orgs"]["post"]["requestBody"]["content"]["application/json"]
    body["example"]["name"] = "".join(c for c in text if ord(c) > 31 and ord(c) != 127)
    file = tmp_path / "contract.yaml"
    file.write_text(render.literal(document))
    hostile, plain = generated(file), shipped_files()
    assert hostile.keys() == plain.keys()
    for path in hostile:
        if path.endswith(".yaml") and "/templates/" not in path:
            assert shape(hostile[path]) == shape(plain[path]), path
    chart = yaml.safe_load(hostile["charts/covenant/Chart.yaml"])
    values = yaml.safe_load(hostile["charts/covenant/values.yaml"])
    project = yaml.safe_load(hostile["argo/local/apps/project.yaml"])
    assert chart["description"] == values["token"]["issuer"] == text
    assert project["spec"]["description"] == text
    templates = {p: t.split("\n", 1)[1] for p, t in hostile.items() if "/templates/" in p}
    assert templates == {p: plain[p].split("\n", 1)[1] for p in templates}


def shape(text: str) -> Any:
    """Return documents with every scalar replaced: what hostile text could change."""

    def of(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: of(value) for key, value in node.items()}
        return [of(item) for item in node] if isinstance(node, list) else type(node)

    return [of(document) for document in yaml.safe_load_all(text)]


# Files of the user's own


def test_own_values_win_and_own_templates_are_copied(tree: Path) -> None:
    own = tree / "overrides"
    (own / "templates").mkdir(parents=True)
    edited(tree, "[10.0.0.0/8]}}", "[10.0.0.0/8]}, values: {port: 1, shutdown: {drainSeconds: 8}}}")
    (own / "values.yaml").write_text(
        "shutdown: {drainSeconds: 9, preStopSeconds: 6}\nown: {colour: red, on: 2026-11-23}\n"
    )
    (own / "values.production.yaml").write_text("shutdown: {preStopSeconds: 7}\n")
    (own / "templates/extra.yaml").write_text("kind: {{ .Values.own.colour }}\n")
    for _ in range(2):
        assert run(tree) == 0
        values = yaml.safe_load((tree / "charts/t/environments/production.yaml").read_text())
        assert values["shutdown"] == {"drainSeconds": 9, "preStopSeconds": 7}
        assert (values["exposure"]["host"], values["port"]) == ("t.example", 1)
        copied = (tree / "charts/t/templates/own/extra.yaml").read_text()
        assert copied.endswith("kind: {{ .Values.own.colour }}\n")
        assert run(tree, "--check") == 0
    assert sorted(f.name for f in own.rglob("*.yaml")) == [
        "extra.yaml",
        "values.production.yaml",
        "values.yaml",
    ]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("values.yaml", "replicaz: 2", "overrides/values.yaml:1: replicaz: the chart knows no"),
        ("values.production.yaml", "port: x", 'overrides/values.production.yaml:1: port: "x" is'),
        ("values.yaml", "a: [", "overrides/values.yaml:1: document: no YAML"),
        ("values.yaml", "- a", "overrides/values.yaml:1: document: must be a mapping"),
        ("values.nowhere.yaml", "port: 1", "overrides/values.nowhere.yaml:1: document: no such"),
    ],
)
def test_own_values_that_the_chart_does_not_know_are_refused(
    tree: Path, capsys: pytest.CaptureFixture[str], name: str, text: str, expected: str
) -> None:
    (tree / "overrides").mkdir()
    (tree / "overrides" / name).write_text(text)
    before = snapshot(tree / "charts")
    assert run(tree) == 2
    assert expected in capsys.readouterr().err
    assert snapshot(tree / "charts") == before


# Reach: the contract's words arrive


def test_internal_operations_are_not_routed() -> None:
    known = facts.from_contract(contract.load(contract.DEFAULT))
    assert "/health" in {route.path for route in known.routes}
    assert "/ready" not in {route.path for route in known.routes}


def test_routes_match_declared_paths_and_nothing_longer() -> None:
    known = facts.from_contract(contract.load(contract.DEFAULT))
    (route,) = [r for r in known.routes if r.path == "/orgs/{org_id}/projects/{project_id}"]
    assert (route.prefix, route.exact) == ("/orgs", None)
    assert route.pattern
    assert re.search(route.pattern, "/orgs/1/projects/2")
    for path in ("/orgs/1/projects/2/x", "/orgs/1/projects/", "/x/orgs/1/projects/2", "/orgs"):
        assert not re.search(route.pattern, path), path


def test_generated_files_are_found_again(tmp_path: Path) -> None:
    files = generated(MINIMAL)
    assert existing(planted(tmp_path, files)) == files
