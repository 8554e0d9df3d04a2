"""The lint beyond what a contract must be: each finding with file, line and reason."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from dev import lint
from openapi import contract

SHIPPED: dict[str, Any] = yaml.safe_load(contract.DEFAULT.read_text())
PROJECTS = "/orgs/{org_id}/projects"


def linted(tmp_path: Path, change: Callable[[dict[str, Any]], Any]) -> list[str]:
    document = copy.deepcopy(SHIPPED)
    change(document)
    file = tmp_path / "contract.json"
    file.write_text(json.dumps(document, indent=1))
    return [str(fault) for fault in lint.lint(contract.load(file, None))]


def test_the_shipped_contract_has_no_finding() -> None:
    assert lint.lint(contract.load()) == []


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (
            lambda d: d["paths"][PROJECTS]["get"].update(security=[]),
            f"paths.{PROJECTS}.get.security: `org_id` in the path names a tenant",
        ),
        (
            lambda d: d["components"]["parameters"]["ProjectId"].update(
                schema={"type": "integer", "minimum": 1, "maximum": 9}, example=1
            ),
            "path parameter `project_id` is no uuid: others can be guessed",
        ),
        (
            lambda d: d["components"]["responses"]["Unauthorized"].pop("headers"),
            f"paths.{PROJECTS}.get.responses.401: 401 without the header WWW-Authenticate",
        ),
        (
            lambda d: d["components"]["responses"]["Unavailable"].pop("headers"),
            "503 without the header Retry-After",
        ),
        (
            lambda d: d["paths"][PROJECTS]["post"]["requestBody"]["content"][
                "application/json"
            ].pop("example"),
            "requestBody.content.application/json: the body has no example",
        ),
        (
            lambda d: d["paths"][PROJECTS]["get"]["parameters"].pop(0),
            f"paths.{PROJECTS}.get: answers with a list and has no parameter `limit`",
        ),
        (
            lambda d: d["paths"][PROJECTS]["post"]["responses"]["201"].pop("headers"),
            "201 without the header Location",
        ),
        (
            lambda d: d["paths"][PROJECTS]["post"].pop("parameters"),
            f"paths.{PROJECTS}.post: makes something and takes no Idempotency-Key",
        ),
        (
            lambda d: d["paths"]["/orgs"]["post"]["responses"].pop("422"),
            "paths./orgs.post.responses: takes an Idempotency-Key and declares no 422",
        ),
        (
            lambda d: d["servers"][2].update(url="http://api.covenant.example"),
            "servers.2.url: exposed without TLS: tokens could be read on the way",
        ),
    ],
)
def test_a_finding_names_file_line_and_reason(
    tmp_path: Path, change: Callable[[dict[str, Any]], Any], finding: str
) -> None:
    found = linted(tmp_path, change)
    assert any(finding in line for line in found), found
    name, line, _ = found[0].split(":", 2)
    assert name.endswith("contract.json")
    assert int(line) > 1


def test_the_command_says_what_it_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert lint.main([]) == 0
    assert capsys.readouterr().out == "openapi/openapi.yaml: 0 findings\n"
    (tmp_path / "c.yaml").write_text("openapi: 2")
    assert lint.main([str(tmp_path / "c.yaml")]) == 1
