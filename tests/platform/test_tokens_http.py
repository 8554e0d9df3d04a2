"""Good and bad tokens as a client sends them, byte for byte, to the running service."""

import base64
import json
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from openapi import contract
from service.identity import keys, tokens
from service.identity.keys import KeyRing
from service.identity.tokens import TokenTerms
from tests.platform import corpus_tokens
from tests.platform.corpus_tokens import Case
from tests.platform.fix_postgres import Database
from tests.platform.fix_service import Service, serving, until

NOBODY = "postgresql://covenant_app@127.0.0.1:1/covenant"
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


def terms() -> TokenTerms:
    declared = contract.load().token
    return TokenTerms(declared["issuer"], declared["audience"], declared["lifetime"])


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


def ask(service: Service, path: str, *headers: bytes) -> Answer:
    """Send a GET whose headers are sent as they are; the service ends the connection."""
    lines = [f"GET {path} HTTP/1.1".encode(), b"Host: covenant", b"Connection: close", *headers]
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
        received = b""
        try:
            connection.sendall(b"\r\n".join(lines) + b"\r\n\r\n")
            while chunk := connection.recv(65536):
                received += chunk
        except ConnectionError:  # it need not read 200 kB that it refuses
            pass
    head, _, body = received.partition(b"\r\n\r\n")
    status, *fields = head.decode("latin-1").split("\r\n")
    pairs = (field.split(": ", 1) for field in fields)
    return Answer(int(status.split()[1]), {name.lower(): value for name, value in pairs}, body)


@pytest.fixture(scope="module")
def away(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that has no database at all: whatever it answers, it answers without one."""
    with serving(tmp_path_factory.mktemp("away"), NOBODY, ready=False) as service:
        with service.http() as http:
            until(lambda: _healthy(http))
        yield service


def _healthy(http: httpx.Client) -> bool:
    try:
        return http.get("/health").status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def cases(away: Service) -> list[Case]:
    return corpus_tokens.build(KeyRing(away.keys_dir), terms(), now=time.time())


@pytest.mark.parametrize("group", GROUPS)
def test_tokens_are_judged_alike_over_http(away: Service, cases: list[Case], group: str) -> None:
    chosen = [case for case in cases if case.group == group]
    assert chosen
    bodies = set()
    for case in chosen:
        answer = ask(away, "/auth/me", b"Authorization: " + case.header.encode("latin-1"))
        if case.accepted:
            assert answer.status == 200, case.name
            continue
        expected = _refusals(case.header)
        assert answer.status in expected, (case.name, answer)
        assert answer.headers["content-type"] == "application/problem+json", case.name
        if answer.status == 401:
            assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"', case.name
            bodies.add(_without_request(answer.body))
    # One answer for every cause.
    assert len(bodies) <= 1


def _refusals(header: str) -> tuple[int, ...]:
    if len(header) > 16_000:
        return (431,)
    if re.search(r"[\x00-\x08\x0a-\x1f\x7f]", header):  # not a field value of HTTP
        return (400, 401)
    return (401,)


def _without_request(body: bytes) -> str:
    problem = json.loads(body)
    return json.dumps({k: v for k, v in problem.items() if k not in ("request_id", "instance")})


def test_a_bad_token_does_not_wait_for_a_database(away: Service, cases: list[Case]) -> None:
    """A good one does: it is told that there is none."""
    path = f"/orgs/{corpus_tokens.ORG_ID}/projects"
    bad = {case.group: case for case in cases if not case.accepted}
    for case in bad.values():
        began = time.monotonic()
        answer = ask(away, path, b"Authorization: " + case.header.encode("latin-1"))
        assert answer.status in _refusals(case.header), case
        assert time.monotonic() - began < 2
    good = next(case for case in cases if case.accepted)
    assert ask(away, path, b"Authorization: " + good.header.encode()).status == 503


def test_no_token_and_two_tokens_are_refused(away: Service, cases: list[Case]) -> None:
    good = b"Authorization: " + next(c for c in cases if c.accepted).header.encode()
    none = ask(away, "/auth/me")
    assert (none.status, none.headers["www-authenticate"]) == (401, "Bearer")
    assert ask(away, "/auth/me", good, good).status == 401
    assert ask(away, "/auth/me", good, b"authorization: Basic eDp5").status == 401
    assert ask(away, "/auth/me?access_token=" + good.decode().split()[-1]).status in (400, 401)
    assert ask(away, "/auth/me", b"Cookie: access_token=" + good.split()[-1]).status == 401
    assert ask(away, "/auth/me", good).status == 200


def test_no_token_is_ever_logged(away: Service, cases: list[Case]) -> None:
    log = away.log_text()
    key = next(p for p in away.keys_dir.iterdir()).read_text()
    assert key not in log
    assert '"request"' in log
    for case in cases:
        signature = case.header.rpartition(".")[2]
        assert len(signature) < 20 or signature[:43] not in log


@dataclass
class Clocked:
    """A service whose clock a test sets; `ahead` is in seconds."""

    service: Service
    file: Path

    def set(self, ahead: float) -> None:
        draft = self.file.with_suffix(".new")
        draft.write_text(str(ahead))
        draft.replace(self.file)


@pytest.fixture(scope="module")
def clocked(tmp_path_factory: pytest.TempPathFactory, database: Database) -> Iterator[Clocked]:
    folder = tmp_path_factory.mktemp("clocked")
    file = folder / "clock"
    file.write_text("0")
    with serving(
        folder,
        database.app_url,
        command=("-m", "tests.platform.app_with_clock"),
        CLOCK_FILE=str(file),
    ) as service:
        yield Clocked(service, file)


def _status(http: httpx.Client, token: str) -> int:
    return http.get("/auth/me", headers={"Authorization": f"Bearer {token}"}).status_code


def test_a_token_ends_with_its_lifetime_known_before_or_not(clocked: Clocked) -> None:
    clocked.set(0)
    with clocked.service.http() as http:
        guest = http.post("/auth/guest").json()
        known, fresh = guest["access_token"], http.post("/auth/guest").json()["access_token"]
        assert guest["expires_in"] == terms().lifetime == 3600
        assert _status(http, known) == 200
        clocked.set(3600 - 60)
        assert _status(http, known) == 200
        clocked.set(3601)
        for token in (known, fresh, known):
            answer = http.get("/auth/me", headers={"Authorization": f"Bearer {token}"})
            assert answer.status_code == 401
            assert answer.json()["code"] == "unauthorized"
        clocked.set(0)


def test_an_exchanged_token_does_not_outlive_the_first(clocked: Clocked) -> None:
    clocked.set(0)
    with clocked.service.http() as http:
        guest = http.post("/auth/guest").json()
        bearer = {"Authorization": f"Bearer {guest['access_token']}"}
        org = http.post("/orgs", json={"name": "Acme"}, headers=bearer).json()["id"]
        clocked.set(3000)
        answer = http.post("/auth/token", json={"org_id": org}, headers=bearer)
        assert answer.status_code == 200
        assert answer.json()["expires_in"] <= 600
        assert _status(http, answer.json()["access_token"]) == 200
        clocked.set(3601)
        assert _status(http, answer.json()["access_token"]) == 401
        clocked.set(0)


def test_a_token_that_lives_longer_than_the_contract_says_is_refused(clocked: Clocked) -> None:
    clocked.set(0)
    ring, stretched = KeyRing(clocked.service.keys_dir), terms()
    stretched = TokenTerms(stretched.issuer, stretched.audience, stretched.lifetime + 1)
    now, org = time.time(), corpus_tokens.ORG_ID
    long, _ = tokens.issue(ring, stretched, subject="guest-0001", org_id=org, now=now)
    good, _ = tokens.issue(ring, terms(), subject="guest-0001", org_id=org, now=now)
    with clocked.service.http() as http:
        assert _status(http, long) == 401
        assert _status(http, good) == 200


def test_keys_rotate_while_the_service_runs(clocked: Clocked) -> None:
    """A new key signs within five seconds, the old one verifies until its file is gone."""
    clocked.set(0)
    directory = clocked.service.keys_dir
    old_kid = next(path.name for path in directory.iterdir())

    def guest() -> str:
        return str(http.post("/auth/guest").json()["access_token"])

    def kid(token: str) -> str:
        header = token.split(".")[0]
        return str(json.loads(base64.urlsafe_b64decode(header + "=="))["kid"])

    with clocked.service.http() as http:
        old = guest()
        assert kid(old) == old_kid
        assert _status(http, old) == 200

        new_kid = keys.create_key(directory, time.time())
        new = until(lambda: (token := guest()) and kid(token) == new_kid and token, 5)
        assert _status(http, new) == _status(http, old) == 200

        (directory / old_kid).unlink()
        until(lambda: _status(http, old) == 401, 5)
        assert _status(http, new) == 200

        future = keys.create_key(directory, time.time() + 1000)
        broken = directory / "20260101T000000Z"
        broken.write_text("short")
        until(lambda: "too short" in clocked.service.log_text(), 5)
        assert _status(http, guest()) == 200
        broken.unlink()
        clocked.set(1001)
        until(lambda: kid(guest()) == future, 5)
        assert _status(http, new) == 200
        clocked.set(0)
