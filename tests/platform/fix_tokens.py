"""Signing keys with a clock that tests control, and tokens signed with them."""

from collections.abc import Callable
from pathlib import Path

import pytest

from service.identity.keys import KeyRing, create_key
from service.identity.tokens import issue
from service.identity.verification import InvalidToken, TokenTerms
from tests.platform.corpus_forge import ORG_ID

NOW = 1_795_420_800.0  # 2026-11-23 08:00:00 UTC
TERMS = TokenTerms("https://covenant.example", "covenant", 3600)
ACCEPTED = "accepted"


class Clock:
    """A clock that tests set."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class CountingKeyRing(KeyRing):
    """A key ring that counts its lookups: a token found in the cache causes none."""

    lookups = 0
    after_next_lookup: Callable[[], object] | None = None

    def get(self, kid: str) -> bytes | None:
        self.lookups += 1
        key = super().get(kid)
        if self.after_next_lookup is not None:
            callback, self.after_next_lookup = self.after_next_lookup, None
            callback()
        return key


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def key_ring(tmp_path: Path, clock: Clock) -> CountingKeyRing:
    """A key ring with one key, in `tmp_path`."""
    create_key(tmp_path, NOW - 60)
    return CountingKeyRing(tmp_path, clock)


def sign(key_ring: KeyRing, now: float = NOW, subject: str = "guest-0001") -> str:
    return issue(key_ring, TERMS, subject=subject, org_id=ORG_ID, now=now)[0]


def outcome(attempt: Callable[..., object], *arguments: object) -> str:
    """Return why a token was rejected, or `ACCEPTED`. Any other error fails the test."""
    try:
        attempt(*arguments)
    except InvalidToken as error:
        return error.reason
    return ACCEPTED
