"""Errors: what the client learns, what the log says, and what neither reveals."""

import json
import time
from typing import Any

import httpx
import pytest

from openapi import contract
from service.http import problems
from service.identity.keys import KeyRing
from service.identity.verification import TokenTerms
from tests.platform import corpus_tokens
from tests.platform.corpus_forge import Case
from tests.platform.fix_logs import log_events, wait_for_event
from tests.platform.fix_problems import examples
from tests.platform.fix_raw import raw
from tests.platform.fix_service import Service, Tenant

SECRET = "canary-of-the-body"


def request_line(service: Service, response: httpx.Response) -> dict[str, Any]:
    """Return the log line of a request."""
    return wait_for_event(service, "request", request_id=response.headers["x-request-id"])


def failure_line(service: Service, response: httpx.Response) -> dict[str, Any]:
    """Return the log line with the traceback of a request."""
    return wait_for_event(service, "request_failed", request_id=response.headers["x-request-id"])


def corpus(service: Service, acme: Tenant) -> list[Case]:
    token = contract.load().token
    terms = TokenTerms(token["issuer"], token["audience"], token["lifetime"])
    keys = KeyRing(service.keys_dir)
    return corpus_tokens.build(keys, terms, now=time.time(), org_id=acme.org)


def test_an_unknown_error_is_a_500_that_contains_only_the_request_id(faulty: Service) -> None:
    with faulty.http() as client:
        token = client.post("/auth/guest").json()["access_token"]
        bearer = {"Authorization": f"Bearer {token}"}
        failed = client.post("/faults/fail", json={"name": SECRET}, headers=bearer)
    assert failed.status_code == 500
    request_id = failed.headers["x-request-id"]
    assert failed.json() == {
        "type": "urn:covenant:problem:internal-error",
        "title": "Internal error",
        "status": 500,
        "detail": "The service failed",
        "instance": f"urn:covenant:request:{request_id}",
        "code": "internal-error",
        "hint": "Give the request id to the operator",
        "request_id": request_id,
    }
    line = json.dumps(failure_line(faulty, failed))
    assert "RuntimeError" in line
    assert "faults.py" in line
    assert SECRET not in faulty.log_text()
    assert token not in faulty.log_text()


def test_the_error_of_a_statement_is_logged_and_not_sent(faulty: Service) -> None:
    with faulty.http() as client:
        failed = client.get("/faults/statement")
        assert failed.status_code == 500
        assert "no_such_column" not in failed.text
        assert client.get("/ready").status_code == 200
    assert "no_such_column" in json.dumps(failure_line(faulty, failed))


@pytest.mark.parametrize("path", ["/faults/slow", "/faults/slow/transaction"])
def test_a_statement_that_exceeds_its_operations_timeout_is_a_statement_timeout(
    faulty: Service, path: str
) -> None:
    with faulty.http() as client:
        for _ in range(2):
            slow = client.get(path)
            assert (slow.status_code, slow.json()["code"]) == (503, "statement-timeout")
            assert slow.headers["retry-after"] == "1"
            assert 0.3 <= slow.elapsed.total_seconds() < 1.5
            assert client.post("/auth/guest").status_code == 201


def test_a_response_that_violates_the_contract_is_not_sent(faulty: Service) -> None:
    with faulty.http() as client:
        failed = client.get("/faults/wrong")
    assert failed.status_code == 500
    assert "canary" not in failed.text


def test_the_contract_declares_every_problem_with_its_status_and_title() -> None:
    document = contract.load().document
    declared = {}
    for response in document["components"]["responses"].values():
        for example in examples(response):
            declared[example["code"]] = (example["status"], example["title"])
    undeclared = {"method-not-allowed": (405, "Method not allowed")}
    assert declared | undeclared == problems.CODES


@pytest.mark.parametrize(
    ("sent", "is_used"),
    [
        ("a", True),
        ("A-b_c.9", True),
        ("x" * 64, True),
        ("x" * 65, False),
        ("", False),
        ("a b", False),
        ("a\xe9", False),
        ('{"a":1}', False),
        ("a%0d%0aX-Injected: 1", False),
        ("../../etc/passwd", False),
    ],
)
def test_a_request_id_is_the_clients_if_it_is_well_formed(
    service: Service, sent: str, is_used: bool
) -> None:
    with service.http() as client:
        response = client.get("/nothing", headers={b"X-Request-Id": sent.encode("latin-1")})
    request_id = response.headers["x-request-id"]
    assert (request_id == sent) is is_used
    assert response.json()["request_id"] == request_id
    assert request_line(service, response)["status"] == 404


def test_a_line_break_in_a_request_id_injects_no_header(service: Service) -> None:
    for injected in (b"a\nX-Injected: 1", b"a\rX-Injected: 1", b"a\r\n X-Injected: 1"):
        head = b"GET /health HTTP/1.1\r\nHost: x\r\nX-Request-Id: %s\r\n\r\n" % injected
        with raw(service.port) as connection:
            response = connection.send(head).response()
        assert response.status_code == 400
        assert "x-injected" not in response.headers


def test_the_log_line_of_a_request_names_operation_tenant_and_outcome(
    acme: Tenant, service: Service
) -> None:
    project = acme.project("Apollo")
    response = acme.get(f"/orgs/{acme.org}/projects/{project['id']}")
    line = request_line(service, response)
    assert line["timestamp"].endswith("Z")
    assert 0 < line["duration_ms"] < 15_000
    assert line | {"timestamp": "", "duration_ms": 0} == {
        "timestamp": "",
        "level": "info",
        "event": "request",
        "request_id": response.headers["x-request-id"],
        "operation": "projects.get",
        "method": "GET",
        "status": 200,
        "duration_ms": 0,
        "tenant": acme.org,
    }


def test_a_request_that_the_parser_rejects_is_logged_too(service: Service) -> None:
    with raw(service.port) as connection:
        response = connection.send(b"nonsense\r\n\r\n").response()
    line = request_line(service, response)
    assert line["status"] == 400
    assert line["duration_ms"] >= 0


def test_no_token_body_or_key_is_ever_logged(service: Service, acme: Tenant) -> None:
    cases = corpus(service, acme)
    statuses = []
    with service.http() as client:
        for case in cases:
            header = {b"Authorization": case.header.encode("latin-1")}
            statuses.append(client.get("/auth/me", headers=header).status_code)
            client.post("/orgs", headers=header, content=SECRET.encode())
        client.get(f"/orgs/{SECRET}?{SECRET}={SECRET}", headers={"Cookie": SECRET, "X-A": SECRET})
        client.request("QUERY", f"/{SECRET}")
    acme.post("/orgs", name=SECRET)
    acme.http.post("/orgs", json={SECRET: SECRET})
    unexpected = [
        (case.group, case.name, status)
        for case, status in zip(cases, statuses, strict=True)
        if status not in ((200,) if case.is_accepted else (401, 431, 400))
    ]
    assert unexpected == []

    log = service.log_text()
    assert all(isinstance(line, dict) for line in log_events(service))
    assert SECRET not in log
    assert acme.token not in log
    kid, key = KeyRing(service.keys_dir).signing()
    assert kid not in log
    assert key.decode() not in log
    for case in cases:
        parts = [p for part in case.header.split() for p in part.split(".") if len(p) > 20]
        assert not any(part in log for part in parts), case.name


def test_every_bad_token_gets_the_same_401(service: Service, acme: Tenant) -> None:
    bodies = set()
    with service.http() as client:
        for case in corpus(service, acme):
            value = case.header.encode("latin-1")
            if case.is_accepted or not case.header or len(value) > 15_000:
                continue  # too long: 431
            rejected = client.get("/auth/me", headers={b"Authorization": value})
            assert rejected.status_code == 401, case
            assert rejected.headers["www-authenticate"] == 'Bearer error="invalid_token"'
            body = rejected.json()
            del body["request_id"], body["instance"]
            bodies.add(json.dumps(body))
    assert len(bodies) == 1
