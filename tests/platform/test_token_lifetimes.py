"""Token expiry and key rotation in a running service whose clock the test sets."""

import base64
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import psycopg
import pytest

from openapi import contract
from service.identity import keys, tokens
from service.identity.keys import KeyRing
from service.identity.verification import TokenTerms
from tests.platform.corpus_forge import ORG_ID
from tests.platform.fix_postgres import Database, count_blocked
from tests.platform.fix_service import Service, serving, until

LIFETIME_SECONDS = 3600


@dataclass
class ClockedService:
    """A service whose clock can be set ahead of the real time."""

    service: Service
    file: Path

    def set_ahead(self, seconds: float) -> None:
        draft = self.file.with_suffix(".new")
        draft.write_text(str(seconds))
        draft.replace(self.file)


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory, database: Database
) -> Iterator[ClockedService]:
    folder = tmp_path_factory.mktemp("clocked")
    file = folder / "clock"
    file.write_text("0")
    with serving(
        folder,
        database.app_url,
        command=("-m", "tests.platform.app_with_clock"),
        CLOCK_FILE=str(file),
    ) as service:
        yield ClockedService(service, file)


@pytest.fixture
def clocked(running: ClockedService) -> Iterator[ClockedService]:
    """The service, with the real time at the beginning and at the end of each test."""
    running.set_ahead(0)
    yield running
    running.set_ahead(0)


@pytest.fixture
def http(clocked: ClockedService) -> Iterator[httpx.Client]:
    with clocked.service.http() as client:
        yield client


def terms() -> TokenTerms:
    token = contract.load().token
    return TokenTerms(token["issuer"], token["audience"], token["lifetime"])


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def status(http: httpx.Client, token: str) -> int:
    return http.get("/auth/me", headers=bearer(token)).status_code


def exchange(http: httpx.Client, token: str, org_id: str) -> httpx.Response:
    return http.post("/auth/token", json={"org_id": org_id}, headers=bearer(token))


def test_a_token_expires_after_its_lifetime_cached_or_not(
    clocked: ClockedService, http: httpx.Client
) -> None:
    guest = http.post("/auth/guest").json()
    cached, uncached = guest["access_token"], http.post("/auth/guest").json()["access_token"]
    assert guest["expires_in"] == terms().lifetime == LIFETIME_SECONDS
    assert status(http, cached) == 200
    clocked.set_ahead(LIFETIME_SECONDS - 60)
    assert status(http, cached) == 200
    clocked.set_ahead(LIFETIME_SECONDS + 1)
    for token in (cached, uncached, cached):
        response = http.get("/auth/me", headers=bearer(token))
        assert response.status_code == 401
        assert response.json()["code"] == "unauthorized"


def test_an_exchanged_token_does_not_outlive_the_original(
    clocked: ClockedService, http: httpx.Client
) -> None:
    original = http.post("/auth/guest").json()["access_token"]
    org_id = http.post("/orgs", json={"name": "Acme"}, headers=bearer(original)).json()["id"]
    clocked.set_ahead(3000)
    response = exchange(http, original, org_id)
    assert response.status_code == 200
    assert response.json()["expires_in"] <= LIFETIME_SECONDS - 3000
    exchanged = response.json()["access_token"]
    assert status(http, exchanged) == 200
    clocked.set_ahead(LIFETIME_SECONDS + 1)
    assert status(http, exchanged) == 401


def test_an_exchange_is_401_when_the_token_expires_while_it_is_processed(
    clocked: ClockedService, http: httpx.Client, database: Database
) -> None:
    original = http.post("/auth/guest").json()["access_token"]
    org_id = http.post("/orgs", json={"name": "Acme"}, headers=bearer(original)).json()["id"]
    clocked.set_ahead(LIFETIME_SECONDS - 60)
    with (
        ThreadPoolExecutor(1) as pool,
        psycopg.connect(database.superuser_url) as superuser,
    ):
        superuser.execute("lock table memberships in access exclusive mode")
        pending = pool.submit(exchange, http, original, org_id)
        until(lambda: count_blocked(superuser))
        clocked.set_ahead(LIFETIME_SECONDS + 1)
        superuser.rollback()
        response = pending.result()
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == 'Bearer error="invalid_token"'


def test_a_token_with_a_longer_lifetime_than_the_contract_allows_is_rejected(
    clocked: ClockedService, http: httpx.Client
) -> None:
    key_ring, declared = KeyRing(clocked.service.keys_dir), terms()
    longer = TokenTerms(declared.issuer, declared.audience, declared.lifetime + 1)

    def issue(terms: TokenTerms) -> str:
        return tokens.issue(key_ring, terms, subject="guest-0001", org_id=ORG_ID, now=time.time())[
            0
        ]

    assert status(http, issue(longer)) == 401
    assert status(http, issue(declared)) == 200


def test_keys_rotate_without_a_restart(clocked: ClockedService, http: httpx.Client) -> None:
    """Within five seconds a new key signs, and tokens of a removed key are rejected."""
    directory = clocked.service.keys_dir
    old_kid = next(path.name for path in directory.iterdir())

    def sign_in() -> str:
        return str(http.post("/auth/guest").json()["access_token"])

    def kid(token: str) -> str:
        header = token.split(".")[0]
        return str(json.loads(base64.urlsafe_b64decode(header + "=="))["kid"])

    old = sign_in()
    assert kid(old) == old_kid
    assert status(http, old) == 200

    new_kid = keys.create_key(directory, time.time())
    new = until(lambda: (token := sign_in()) and kid(token) == new_kid and token, 5)
    assert status(http, new) == status(http, old) == 200

    (directory / old_kid).unlink()
    until(lambda: status(http, old) == 401, 5)
    assert status(http, new) == 200

    future = keys.create_key(directory, time.time() + 1000)
    too_short = directory / "20260101T000000Z"
    too_short.write_text("short")
    until(lambda: "too short" in clocked.service.log_text(), 5)
    assert status(http, sign_in()) == 200
    too_short.unlink()
    clocked.set_ahead(1001)
    until(lambda: kid(sign_in()) == future, 5)
    assert status(http, new) == 200
