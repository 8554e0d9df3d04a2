"""Refusals and failures: what is told to the client, what to the log, and what to nobody."""

import json
import time
from typing import Any

import pytest

from openapi import contract
from service.http import problems
from service.identity.keys import KeyRing
from service.identity.tokens import TokenTerms
from tests.platform import corpus_tokens
from tests.platform.fix_problems import examples
from tests.platform.fix_raw import raw
from tests.platform.fix_service import Service, Tenant, until

SECRET = "canary-of-the-body"


def lines(service: Service) -> list[dict[str, Any]]:
    return [json.loads(line) for line in service.log_text().splitlines()]


def line_of(service: Service, request_id: str, event: str = "request") -> dict[str, Any]:
    """Return the log line of a request."""

    def found() -> Any:
        return next(
            (x for x in lines(service) if (x.get("request_id"), x["event"]) == (request_id, event)),
            None,
        )

    line: dict[str, Any] = until(found)
    return line


def test_an_unknown_error_is_a_500_with_the_request_id_and_nothing_else(planted: Service) -> None:
    with planted.http() as client:
        token = client.post("/auth/guest").json()["access_token"]
        bearer = {"Authorization": f"Bearer {token}"}
        failed = client.post("/planted/fail", json={"name": SECRET}, headers=bearer)
    assert failed.status_code == 500
    request_id = failed.headers["x-request-id"]
    assert failed.json() == {
        "type": "urn:covenant:problem:internal-error",
        "title": "Internal error",
        "status": 500,
        "detail": "The service failed",
        "instance": f"urn:covenant:request:{request_id}",
        "code": "internal-error",
        "hint": "Tell the operator the request id",
        "request_id": request_id,
    }
    told = json.dumps(line_of(planted, request_id, "request failed"))
    assert "RuntimeError" in told
    assert "planted.py" in told
    assert SECRET not in planted.log_text()
    assert token not in planted.log_text()


def test_a_statement_that_postgresql_refuses_is_told_to_the_log_only(planted: Service) -> None:
    with planted.http() as client:
        failed = client.get("/planted/statement")
        assert failed.status_code == 500
        assert "no_such_column" not in failed.text
        assert client.get("/ready").status_code == 200
    told = line_of(planted, failed.headers["x-request-id"], "request failed")
    assert "no_such_column" in json.dumps(told)


@pytest.mark.parametrize("path", ["/planted/slow", "/planted/slow/transaction"])
def test_a_statement_above_the_timeout_of_its_operation_has_a_problem_of_its_own(
    planted: Service, path: str
) -> None:
    with planted.http() as client:
        for _ in range(2):
            slow = client.get(path)
            assert (slow.status_code, slow.json()["code"]) == (503, "statement-timeout")
            assert slow.headers["retry-after"] == "1"
            assert 0.3 <= slow.elapsed.total_seconds() < 1.5
            assert client.post("/auth/guest").status_code == 201


def test_an_answer_that_the_contract_does_not_know_is_not_given(planted: Service) -> None:
    with planted.http() as client:
        failed = client.get("/planted/wrong")
    assert failed.status_code == 500
    assert "canary" not in failed.text


def test_every_problem_of_the_service_is_in_the_contract_with_its_status_and_title() -> None:
    document = contract.load().document
    declared = {}
    for response in document["components"]["responses"].values():
        for example in examples(response):
            declared[example["code"]] = (example["status"], example["title"])
    not_declared = {"method-not-allowed": (405, "Method not allowed")}
    assert declared | not_declared == problems.CODES


@pytest.mark.parametrize(
    ("sent", "taken"),
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
def test_a_request_id_is_taken_when_it_is_well_formed_and_else_made(
    service: Service, sent: str, taken: bool
) -> None:
    with service.http() as client:
        response = client.get("/nothing", headers={b"X-Request-Id": sent.encode("latin-1")})
    request_id = response.headers["x-request-id"]
    assert (request_id == sent) is taken
    assert response.json()["request_id"] == request_id
    assert line_of(service, request_id)["status"] == 404


def test_a_line_end_in_a_request_id_injects_nothing(service: Service) -> None:
    for injected in (b"a\nX-Injected: 1", b"a\rX-Injected: 1", b"a\r\n X-Injected: 1"):
        head = b"GET /health HTTP/1.1\r\nHost: x\r\nX-Request-Id: %s\r\n\r\n" % injected
        with raw(service.port) as connection:
            response = connection.send(head).answer()
        assert response.status_code == 400
        assert "x-injected" not in response.headers


def test_a_line_of_the_log_says_who_did_what_with_which_outcome(
    acme: Tenant, service: Service
) -> None:
    project = acme.project("Apollo")
    response = acme.get(f"/orgs/{acme.org}/projects/{project['id']}")
    line = line_of(service, response.headers["x-request-id"])
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


def test_what_the_parser_refuses_is_in_the_log_too(service: Service) -> None:
    with raw(service.port) as connection:
        response = connection.send(b"nonsense\r\n\r\n").answer()
    line = line_of(service, response.headers["x-request-id"])
    assert line["status"] == 400
    assert line["duration_ms"] >= 0


def test_no_token_no_body_and_no_key_is_ever_in_the_log(service: Service, acme: Tenant) -> None:
    keys = KeyRing(service.keys_dir)
    token = contract.load().token
    terms = TokenTerms(token["issuer"], token["audience"], token["lifetime"])
    cases = corpus_tokens.build(keys, terms, now=time.time(), org_id=acme.org)
    statuses = []
    with service.http() as client:
        for case in cases:
            header = {b"Authorization": case.header.encode("latin-1")}
            response = client.get("/auth/me", headers=header)
            statuses.append((case, response.status_code))
            client.post("/orgs", headers=header, content=SECRET.encode())
        client.get(f"/orgs/{SECRET}?{SECRET}={SECRET}", headers={"Cookie": SECRET, "X-A": SECRET})
        client.request("QUERY", f"/{SECRET}")
    acme.post("/orgs", name=SECRET)
    acme.http.post("/orgs", json={SECRET: SECRET})
    wrong = [
        (case.group, case.name, status)
        for case, status in statuses
        if status not in ((200,) if case.accepted else (401, 431, 400))
    ]
    assert wrong == []

    log = service.log_text()
    assert all(isinstance(line, dict) for line in lines(service))
    assert SECRET not in log
    assert acme.token not in log
    kid, key = keys.signing()
    assert kid not in log
    assert key.decode() not in log
    for case in cases:
        words = [w for w in case.header.split() for w in w.split(".") if len(w) > 20]
        assert not any(word in log for word in words), case.name


def test_the_corpus_is_answered_with_401_and_one_body_for_all_causes(
    service: Service, acme: Tenant
) -> None:
    """400 only for bytes that no header field may hold (RFC 9110, 5.5), 431 for the over-long."""
    keys = KeyRing(service.keys_dir)
    token = contract.load().token
    terms = TokenTerms(token["issuer"], token["audience"], token["lifetime"])
    bodies = set()
    with service.http() as client:
        for case in corpus_tokens.build(keys, terms, now=time.time(), org_id=acme.org):
            value = case.header.encode("latin-1")
            if case.accepted or not case.header or len(value) > 15_000:
                continue
            refused = client.get("/auth/me", headers={b"Authorization": value})
            assert refused.status_code == 401, case
            assert refused.headers["www-authenticate"] == 'Bearer error="invalid_token"'
            body = refused.json()
            bodies.add(
                json.dumps({k: v for k, v in body.items() if "re" not in k[:2] and k != "instance"})
            )
    assert len(bodies) == 1
