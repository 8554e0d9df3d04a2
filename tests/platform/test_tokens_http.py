"""Good and bad tokens, sent byte for byte to a running service."""

import json
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from openapi import contract
from service.identity.keys import KeyRing
from service.identity.verification import TokenTerms
from tests.platform import corpus_tokens
from tests.platform.corpus_forge import ORG_ID, Case
from tests.platform.fix_service import Service, has_status, serving, until

UNREACHABLE = "postgresql://covenant_app@127.0.0.1:1/covenant"
GROUPS = (
    "control",
    "alg",
    "signature",
    "time",
    "audience and issuer",
    "sub",
    "org_id",
    "kid",
    "header",
    "json",
    "structure",
    "scheme",
)


@dataclass(frozen=True)
class Response:
    status: int
    headers: dict[str, str]
    body: bytes


def get(service: Service, path: str, *headers: bytes) -> Response:
    """Send a GET with these header lines unchanged, and read until the service closes."""
    lines = [f"GET {path} HTTP/1.1".encode(), b"Host: covenant", b"Connection: close", *headers]
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
        received = b""
        try:
            connection.sendall(b"\r\n".join(lines) + b"\r\n\r\n")
            while chunk := connection.recv(65536):
                received += chunk
        except ConnectionError:  # it need not read 200 kB that it rejects
            pass
    head, _, body = received.partition(b"\r\n\r\n")
    status, *fields = head.decode("latin-1").split("\r\n")
    pairs = (field.split(": ", 1) for field in fields)
    return Response(int(status.split()[1]), {name.lower(): value for name, value in pairs}, body)


def authorization(case: Case) -> bytes:
    return b"Authorization: " + case.header.encode("latin-1")


@pytest.fixture(scope="module")
def no_database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service without a database."""
    folder = tmp_path_factory.mktemp("no_database")
    with serving(folder, UNREACHABLE, ready=False) as service:
        until(lambda: has_status(f"{service.url}/health"))
        yield service


@pytest.fixture(scope="module")
def cases(no_database: Service) -> list[Case]:
    token = contract.load().token
    terms = TokenTerms(token["issuer"], token["audience"], token["lifetime"])
    return corpus_tokens.build(KeyRing(no_database.keys_dir), terms, now=time.time())


@pytest.mark.parametrize("group", GROUPS)
def test_the_corpus_has_the_same_outcomes_over_http(
    no_database: Service, cases: list[Case], group: str
) -> None:
    in_group = [case for case in cases if case.group == group]
    assert in_group
    bodies = set()
    for case in in_group:
        response = get(no_database, "/auth/me", authorization(case))
        if case.is_accepted:
            assert response.status == 200, case.name
            continue
        assert response.status in _rejected_statuses(case.header), (case.name, response)
        assert response.headers["content-type"] == "application/problem+json", case.name
        if response.status == 401:
            challenge = response.headers["www-authenticate"]
            assert challenge == 'Bearer error="invalid_token"', case.name
            bodies.add(_without_request_id(response.body))
    # The body does not reveal the cause.
    assert len(bodies) <= 1


def _rejected_statuses(header: str) -> tuple[int, ...]:
    if len(header) > 16_000:
        return (431,)
    if re.search(r"[\x00-\x08\x0a-\x1f\x7f]", header):  # not a field value in HTTP
        return (400, 401)
    return (401,)


def _without_request_id(body: bytes) -> str:
    problem = json.loads(body)
    return json.dumps({k: v for k, v in problem.items() if k not in ("request_id", "instance")})


def test_a_bad_token_is_rejected_without_waiting_for_the_database(
    no_database: Service, cases: list[Case]
) -> None:
    path = f"/orgs/{ORG_ID}/projects"
    bad = {case.group: case for case in cases if not case.is_accepted}
    for case in bad.values():
        started = time.monotonic()
        response = get(no_database, path, authorization(case))
        assert response.status in _rejected_statuses(case.header), case
        assert time.monotonic() - started < 2
    good = next(case for case in cases if case.is_accepted)
    assert get(no_database, path, authorization(good)).status == 503


def test_a_request_must_have_exactly_one_token_in_its_authorization_header(
    no_database: Service, cases: list[Case]
) -> None:
    def status(path: str, *headers: bytes) -> int:
        return get(no_database, path, *headers).status

    good = authorization(next(case for case in cases if case.is_accepted))
    token = good.split()[-1]
    missing = get(no_database, "/auth/me")
    assert (missing.status, missing.headers["www-authenticate"]) == (401, "Bearer")
    assert status("/auth/me", good, good) == 401
    assert status("/auth/me", good, b"authorization: Basic eDp5") == 401
    assert status("/auth/me?access_token=" + token.decode()) in (400, 401)
    assert status("/auth/me", b"Cookie: access_token=" + token) == 401
    assert status("/auth/me", good) == 200


def test_no_token_and_no_key_is_logged(no_database: Service, cases: list[Case]) -> None:
    log = no_database.log_text()
    key = next(no_database.keys_dir.iterdir()).read_text()
    assert key not in log
    assert '"request"' in log
    for case in cases:
        signature = case.header.rpartition(".")[2]
        assert len(signature) < 20 or signature[:43] not in log
