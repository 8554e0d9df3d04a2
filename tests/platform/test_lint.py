"""`python -m dev.lint`: each issue has file, line, path and reason."""

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


def lint_edited(tmp_path: Path, edit: Callable[[dict[str, Any]], Any]) -> list[str]:
    """Return the issues of the shipped contract after an edit."""
    document = copy.deepcopy(SHIPPED)
    edit(document)
    file = tmp_path / "contract.json"
    file.write_text(json.dumps(document, indent=1))
    return [str(issue) for issue in lint.lint(contract.load(file, None))]


def test_the_shipped_contract_has_no_issues() -> None:
    assert lint.lint(contract.load()) == []


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda d: d["paths"][PROJECTS]["get"].update(security=[]),
            f"paths.{PROJECTS}.get.security: `org_id` in the path names a tenant: require a token",
        ),
        (
            lambda d: d["components"]["parameters"]["ProjectId"].update(
                schema={"type": "integer", "minimum": 1, "maximum": 9}, example=1
            ),
            "path parameter `project_id` is neither a uuid nor an enum: clients can guess other",
        ),
        (
            lambda d: d["components"]["responses"]["Unauthorized"].pop("headers"),
            f"paths.{PROJECTS}.get.responses.401: response 401 does not declare the header"
            " WWW-Authenticate",
        ),
        (
            lambda d: d["components"]["responses"]["Unavailable"].pop("headers"),
            "response 503 does not declare the header Retry-After",
        ),
        (
            lambda d: d["paths"][PROJECTS]["post"]["requestBody"]["content"][
                "application/json"
            ].pop("example"),
            "requestBody.content.application/json: the request body has no example",
        ),
        (
            lambda d: d["paths"][PROJECTS]["get"]["parameters"].pop(0),
            f"paths.{PROJECTS}.get: returns a list but does not accept the parameter `limit`",
        ),
        (
            lambda d: d["paths"][PROJECTS]["post"]["responses"]["201"].pop("headers"),
            "response 201 does not declare the header Location",
        ),
        (
            lambda d: d["paths"][PROJECTS]["post"].pop("parameters"),
            f"paths.{PROJECTS}.post: creates a resource but does not accept Idempotency-Key: a"
            " retry would create it twice",
        ),
        (
            lambda d: d["paths"]["/orgs"]["post"]["responses"].pop("422"),
            "paths./orgs.post.responses: accepts Idempotency-Key but does not declare response 422",
        ),
        (
            lambda d: d["servers"][2].update(url="http://api.covenant.example"),
            "servers.2.url: is exposed without TLS: tokens can be read in transit",
        ),
    ],
)
def test_an_issue_has_file_line_path_and_reason(
    tmp_path: Path, edit: Callable[[dict[str, Any]], Any], message: str
) -> None:
    issues = lint_edited(tmp_path, edit)
    assert any(message in issue for issue in issues), issues
    name, line, _ = issues[0].split(":", 2)
    assert name.endswith("contract.json")
    assert int(line) > 1


def test_the_command_prints_issues_or_that_there_are_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lint.main([]) == 0
    assert capsys.readouterr().out == "openapi/openapi.yaml: 0 issues\n"

    contract_without_example = copy.deepcopy(SHIPPED)
    body = contract_without_example["paths"][PROJECTS]["post"]["requestBody"]
    del body["content"]["application/json"]["example"]
    (tmp_path / "c.json").write_text(json.dumps(contract_without_example, indent=1))
    assert lint.main([str(tmp_path / "c.json")]) == 1
    assert "the request body has no example" in capsys.readouterr().err


def test_the_command_rejects_an_invalid_contract(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.yaml").write_text("openapi: 2")
    assert lint.main([str(tmp_path / "c.yaml")]) == 1
    assert capsys.readouterr().err.startswith(f"{tmp_path / 'c.yaml'}:1: ")
    assert lint.main([str(tmp_path / "absent.yaml")]) == 1
