"""Checks that every error response is a problem of the contract that reveals nothing."""

import re
from typing import Any

import httpx
import yaml
from jsonschema import Draft4Validator

from openapi import contract

_INTERNALS = re.compile(
    r"traceback|psycopg|sqlalchemy|connexion|postgres(ql)?:|\.py\b|site-packages|/tmp/|/home/"
    r"|/usr/|select .* from|insert into|pg_|0x[0-9a-f]{6}|line \d+",
    re.IGNORECASE,
)


def _schema() -> dict[str, Any]:
    document = yaml.safe_load(contract.DEFAULT.read_text())
    schema: dict[str, Any] = contract.deref(document, document["components"]["schemas"]["Problem"])
    return schema


_PROBLEM = Draft4Validator(_schema(), format_checker=Draft4Validator.FORMAT_CHECKER)


def assert_problem(response: httpx.Response) -> dict[str, Any]:
    """Return the body of an error response after checking it against the contract."""
    assert response.headers["content-type"] == "application/problem+json"
    assert "server" not in response.headers
    assert response.headers["x-content-type-options"] == "nosniff"
    if response.request.method == "HEAD":
        assert response.content == b""
        return {}
    body: dict[str, Any] = response.json()
    _PROBLEM.validate(body)
    assert body["status"] == response.status_code
    assert body["request_id"] == response.headers["x-request-id"]
    assert body["instance"].endswith(body["request_id"])
    assert not _INTERNALS.search(response.text), response.text
    return body


def examples(response: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the example problems of a response object of the contract."""
    media = response["content"]["application/problem+json"]
    if "example" in media:
        return [media["example"]]
    return [example["value"] for example in media["examples"].values()]


def check_response(response: httpx.Response) -> None:
    """Fail when a response redirects, or is an error and not a problem of the contract."""
    assert not 300 <= response.status_code < 400 or response.status_code == 304
    if response.status_code >= 400:
        response.read()
        assert_problem(response)


def error_pointers(response: httpx.Response) -> list[tuple[str, str]]:
    """Return where the errors of a 400 are, as sorted (in, pointer)."""
    assert response.status_code == 400, response.text
    return sorted({(error["in"], error["pointer"]) for error in response.json()["errors"]})
