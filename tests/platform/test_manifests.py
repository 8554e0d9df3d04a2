"""`python -m codegen.manifests`: what it prints, and how mistakes are reported."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from codegen.manifests import main
from evidence.harness.processes import ROOT
from tests.platform.fix_chart import ENVIRONMENTS, shipped
from tests.platform.fix_codegen import minimal_tree, run, run_without_reader


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a folder with the minimal contract, its generated files, and an overrides/ folder."""
    (minimal_tree(tmp_path) / "overrides" / "templates").mkdir(parents=True)
    return tmp_path


def manifests(tree: Path, environment: str = "production") -> int:
    return main([environment], tree, tree / "contract.yaml")


def add_template(tree: Path, text: str) -> None:
    (tree / "overrides/templates/extra.yaml").write_text(text)
    assert run(tree) == 0


# Output


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_manifests_are_printed_by_wave(
    environment: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([environment]) == 0
    printed = [*yaml.safe_load_all(capsys.readouterr().out)]
    waves = [
        int(manifest["metadata"]["annotations"]["argocd.argoproj.io/sync-wave"])
        for manifest in printed
    ]
    assert waves == sorted(waves)
    names = {manifest["metadata"]["name"] for manifest in printed}
    helm_hooks = {
        manifest["metadata"]["name"]
        for manifest in shipped(environment)
        if "helm.sh/hook" in manifest["metadata"]["annotations"]
    }
    assert names == {m["metadata"]["name"] for m in shipped(environment)} - helm_hooks


@pytest.mark.parametrize("annotations", ["", ", annotations: {argocd.argoproj.io/sync-wave: x}"])
def test_a_template_without_a_valid_wave_is_in_wave_0(
    tree: Path, capsys: pytest.CaptureFixture[str], annotations: str
) -> None:
    add_template(tree, f"kind: ConfigMap\nmetadata: {{name: extra{annotations}}}\n")
    capsys.readouterr()
    assert manifests(tree) == 0
    printed = [m["metadata"]["name"] for m in yaml.safe_load_all(capsys.readouterr().out)]
    assert printed.index("extra") > printed.index("t-migration")


def test_a_reader_that_closes_the_pipe_early_causes_no_error() -> None:
    result = run_without_reader("codegen.manifests", "local")
    assert (result.returncode, result.stderr) == (0, "")


def test_a_full_disk_is_reported() -> None:
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            [sys.executable, "-m", "codegen.manifests", "local"],
            cwd=ROOT,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert result.returncode == 2
    assert result.stderr.rstrip().endswith(os.strerror(28))
    assert "Traceback" not in result.stderr


# Mistakes


def failed(tree: Path, capsys: pytest.CaptureFixture[str], environment: str = "production") -> str:
    capsys.readouterr()
    assert manifests(tree, environment) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert "Traceback" not in output.err
    return output.err


def test_an_unknown_environment_is_rejected(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert failed(tree, capsys, "nowhere") == (
        "unknown environment 'nowhere'. Usage: make manifests ENV=production\n"
    )


def test_a_missing_environment_is_rejected(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert capsys.readouterr().err == "Usage: make manifests ENV=local|production|staging\n"


def test_an_invalid_contract_is_rejected(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tree / "contract.yaml").write_text("openapi: [\n")
    assert "contract.yaml:2: document: " in failed(tree, capsys)


def test_a_missing_contract_is_rejected(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tree / "contract.yaml").unlink()
    assert "document: cannot be read: No such file or directory" in failed(tree, capsys)


def test_a_missing_chart_is_reported(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(tree / "charts")
    assert failed(tree, capsys) == "charts/t is missing. Run `make generate`\n"


def test_a_missing_application_is_reported(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tree / "argo/production/apps/application.yaml"
    file.unlink()
    assert failed(tree, capsys) == f"{file}: No such file or directory\n"


@pytest.mark.parametrize("text", ["a: [", "- a", "spec: {}"])
def test_an_edited_application_is_reported(
    tree: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    (tree / "argo/production/apps/application.yaml").write_text(text)
    assert "argo/production is not what was generated. Run `make generate`" in failed(tree, capsys)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{ if }}", "charts/t cannot be rendered: "),
        ("{{ .Values.nothing.at.all }}", "charts/t cannot be rendered: "),
        ("a: [", "charts/t/templates/own/extra.yaml:1: document: renders invalid YAML"),
        ("a: 2026-02-30", "charts/t/templates/own/extra.yaml:1: document: renders invalid YAML"),
        ("- a", "charts/t/templates/own/extra.yaml:1: document: does not render a manifest"),
        ("kind: X", "charts/t/templates/own/extra.yaml:1: document: does not render a manifest"),
    ],
)
def test_a_template_that_renders_no_manifest_is_reported(
    tree: Path, capsys: pytest.CaptureFixture[str], text: str, expected: str
) -> None:
    add_template(tree, text)
    assert failed(tree, capsys).startswith(expected)
