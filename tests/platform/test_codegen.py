"""`python -m codegen`: what it generates, what it rejects, and what --check reports."""

import re
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml

from codegen import facts, render, validation
from codegen.__main__ import TEMPLATES, main
from codegen.files import Files, difference, read_existing
from codegen.overrides import Overrides
from evidence.harness.processes import ROOT
from openapi import contract
from openapi.contract import ContractError
from tests.platform.fix_chart import generated, write_files
from tests.platform.fix_codegen import (
    CONTRACTS,
    MINIMAL,
    arguments,
    edit,
    minimal_tree,
    run,
    run_without_reader,
    snapshot,
)

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
    """Return a folder with the minimal contract and its generated files."""
    return minimal_tree(tmp_path)


# The committed files


def test_the_committed_files_are_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check"]) == 0, capsys.readouterr().out


def test_two_runs_produce_identical_files() -> None:
    assert generated(contract.DEFAULT) == shipped_files()


def test_every_file_names_its_source() -> None:
    for path, text in shipped_files().items():
        head = "\n".join(text.splitlines()[:2])
        source = re.search(r"(codegen/templates/\S+): do not edit", head)
        assert source, path
        assert (ROOT / source[1]).is_file(), source[1]
        assert "from openapi/openapi.yaml and" in head, path


def test_few_files_contain_the_hash_of_the_contract() -> None:
    """Two branches that change the contract conflict in each of them."""
    digest = contract.load().hash
    found = sorted(path for path, text in shipped_files().items() if digest in text)
    assert found == [
        "argo/local/apps/application.yaml",
        "argo/production/apps/application.yaml",
        "argo/staging/apps/application.yaml",
        "charts/covenant/Chart.yaml",
        "charts/covenant/values.schema.json",
        "charts/covenant/values.yaml",
    ]


def test_no_template_mixes_jinja_and_helm() -> None:
    for file in TEMPLATES.rglob("*"):
        if file.is_file() and file.suffix == ".j2":
            assert "{{" not in file.read_text(), file
        elif file.is_file():
            assert "[[" not in file.read_text(), file
            assert "[%" not in file.read_text(), file


# --check, --diff and writing


def test_a_manual_edit_is_reported(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    template = tree / "charts/t/templates/deployment.yaml"
    template.write_text(template.read_text().replace("maxSurge: 1", "maxSurge: 2"))
    capsys.readouterr()
    assert run(tree, "--check") == 1
    assert capsys.readouterr().out == (
        "charts/t/templates/deployment.yaml: stale. Run `make generate`\n"
    )
    assert run(tree) == 0
    assert run(tree, "--check") == 0


def test_a_missing_file_is_reported(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tree / "argo/production/root.yaml").unlink()
    capsys.readouterr()
    assert run(tree, "--check") == 1
    assert capsys.readouterr().out.startswith("argo/production/root.yaml: missing")


def test_an_orphan_written_by_hand_is_reported_and_kept(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    orphan = tree / "charts/t/templates/extra.yaml"
    orphan.write_text("kind: ConfigMap\n")
    capsys.readouterr()
    assert run(tree, "--check") == 1
    message = "charts/t/templates/extra.yaml: orphan, not generated. Delete it, or move it"
    assert message in capsys.readouterr().out
    assert run(tree) == 1
    assert message in capsys.readouterr().err
    assert orphan.exists()


def test_files_that_are_no_longer_generated_are_deleted(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(tree, "name: production", "name: live")
    capsys.readouterr()
    assert run(tree, "--check") == 1
    assert "argo/production/root.yaml: orphan, no longer generated" in capsys.readouterr().out
    assert run(tree) == 0
    assert not (tree / "argo/production").exists()
    assert (tree / "argo/live/root.yaml").exists()
    assert run(tree, "--check") == 0


def test_a_renamed_service_leaves_nothing_of_its_old_chart(tree: Path) -> None:
    """Its JSON files have the header in their second line."""
    edit(tree, "name: t,", "name: renamed,")
    assert run(tree) == 0
    assert [folder.name for folder in (tree / "charts").iterdir()] == ["renamed"]
    assert run(tree, "--check") == 0


def test_a_contract_edit_without_regeneration_is_reported(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(tree, "title: T", "title: U")
    capsys.readouterr()
    assert run(tree, "--check") == 1
    assert "charts/t/Chart.yaml: stale" in capsys.readouterr().out


def test_a_diff_shows_the_changes_and_writes_nothing(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(tree, "https://t.example", "https://new.example")
    before = snapshot(tree)
    capsys.readouterr()
    assert run(tree, "--diff") == 0
    output = capsys.readouterr().out
    assert snapshot(tree) == before
    changed = [line for line in output.splitlines() if re.match(r"[+-] ", line)]
    assert changed == ['-  host: "t.example"', '+  host: "new.example"']
    assert "more files: only the contract's hash changed" in output


def test_a_diff_lists_new_and_deleted_files() -> None:
    lines = "".join(difference({"argo/a": "a\n"}, {"argo/b": "b\n"}))
    assert "--- a/argo/a\n+++ /dev/null\n" in lines
    assert "--- /dev/null\n+++ b/argo/b\n" in lines


def test_an_invalid_contract_changes_nothing(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(tree, "https://t.example", "https://my_api.example")
    before = snapshot(tree)
    assert run(tree) == 2
    assert snapshot(tree) == before
    assert "contract.yaml:5: servers.0.url: 'my_api.example' is not a DNS name" in (
        capsys.readouterr().err
    )


def test_an_up_to_date_tree_is_not_rewritten(tree: Path) -> None:
    before = {f: f.stat().st_mtime_ns for f in (tree / "charts").rglob("*")}
    assert run(tree) == 0
    assert {f: f.stat().st_mtime_ns for f in (tree / "charts").rglob("*")} == before


def test_a_reader_that_closes_the_pipe_early_causes_no_traceback(tree: Path) -> None:
    edit(tree, "title: T", "title: U")
    for option, code in (("--diff", 0), ("--check", 1)):
        result = run_without_reader("codegen", *arguments(tree, option))
        assert (result.returncode, result.stderr) == (code, "")


# Invalid contracts


@pytest.mark.parametrize("file", INVALID, ids=lambda file: file.stem)
def test_an_invalid_contract_is_rejected_with_line_and_reason(file: Path) -> None:
    expected = EXPECTED.match(file.read_text())
    assert expected
    with pytest.raises(ContractError) as error:
        generated(file)
    (issue,) = error.value.issues
    assert issue.file.endswith(file.name)
    assert (str(issue.line), issue.path, issue.reason) == expected.groups()


def test_the_number_of_routes_is_limited() -> None:
    loaded = contract.load(MINIMAL, None)
    many = {
        f"system.x{i}": replaced(loaded.operations["system.ready"], id=f"system.x{i}")
        for i in range(validation.MAX_ROUTES)
    }
    with pytest.raises(ContractError, match="1002 operations are routed; the maximum is 1000"):
        validation.check(replaced(loaded, operations={**loaded.operations, **many}))


def replaced(record: Any, **changes: Any) -> Any:
    return type(record)(**{**vars(record), **changes})


def test_a_template_cannot_reference_an_unknown_fact() -> None:
    app = facts.from_contract(contract.load(MINIMAL, None))
    for text in (
        "[% if app.prot %]x[% endif %]",
        "[[ app.prot ]]",
        "[[ app.probes.liven ]]",
        "[[ nothing ]]",
    ):
        with pytest.raises(jinja2.UndefinedError):
            render.render(app, {"charts/NAME/x.yaml.j2": text}, Overrides())


# Untrusted text in the contract


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_no_text_of_a_contract_breaks_out_of_its_scalar(tmp_path: Path, text: str) -> None:
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
    """Return the structure of YAML documents: every scalar is replaced by its type."""

    def structure(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: structure(value) for key, value in node.items()}
        return [structure(item) for item in node] if isinstance(node, list) else type(node)

    return [structure(document) for document in yaml.safe_load_all(text)]


# Routes


def test_internal_operations_are_not_routed() -> None:
    app = facts.from_contract(contract.load(contract.DEFAULT))
    assert "/health" in {route.path for route in app.routes}
    assert "/ready" not in {route.path for route in app.routes}


def test_a_route_matches_its_path_and_nothing_else() -> None:
    app = facts.from_contract(contract.load(contract.DEFAULT))
    (route,) = [r for r in app.routes if r.path == "/orgs/{org_id}/projects/{project_id}"]
    assert (route.prefix, route.exact) == ("/orgs", None)
    assert route.pattern
    assert re.search(route.pattern, "/orgs/1/projects/2")
    for path in ("/orgs/1/projects/2/x", "/orgs/1/projects/", "/x/orgs/1/projects/2", "/orgs"):
        assert not re.search(route.pattern, path), path


def test_written_files_are_read_back_unchanged(tmp_path: Path) -> None:
    files = generated(MINIMAL)
    assert read_existing(write_files(tmp_path, files)) == files
