"""The token verifier: key rotation, expiry, and the cache of verified tokens."""

import secrets
from base64 import urlsafe_b64decode
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from service.identity.keys import KeyRing, KeysError, create_key
from service.identity.tokens import TokenVerifier, issue
from service.identity.verification import verify
from tests.platform.corpus_forge import ORG_ID, encode
from tests.platform.fix_tokens import ACCEPTED, NOW, TERMS, Clock, CountingKeyRing, outcome, sign


def test_a_token_expires_to_the_second_cached_or_not(key_ring: KeyRing, clock: Clock) -> None:
    verifier = TokenVerifier(key_ring, TERMS, clock)
    token, exp = issue(key_ring, TERMS, subject="a", org_id=ORG_ID, now=NOW, ttl=60)
    assert verifier(token).expires_at == exp
    for now, expected in (
        (exp - 1, ACCEPTED),
        (exp - 0.001, ACCEPTED),
        (exp, "expired"),
        (exp + 1, "expired"),
        (exp - 1, ACCEPTED),
    ):
        clock.now = now
        assert outcome(verifier, token) == expected
        assert outcome(TokenVerifier(key_ring, TERMS, clock), token) == expected
        assert outcome(verify, token, key_ring, TERMS, now) == expected


def test_tokens_stay_valid_through_three_rotations(
    key_ring: KeyRing, clock: Clock, tmp_path: Path
) -> None:
    verifier = TokenVerifier(key_ring, TERMS, clock)
    tokens = {key_ring.signing()[0]: sign(key_ring)}
    for _ in range(3):
        clock.now += 600
        kid = create_key(tmp_path, clock.now)
        assert key_ring.reload() is True
        tokens[kid] = sign(key_ring, clock.now)
        assert [outcome(verifier, t) for t in tokens.values()] == [ACCEPTED] * len(tokens)
    assert len(tokens) == 4
    for kid in sorted(tokens)[:-1]:
        (tmp_path / kid).unlink()
        assert outcome(verifier, tokens[kid]) == ACCEPTED
        assert key_ring.reload() is True
        assert outcome(verifier, tokens.pop(kid)) == "key"
        assert [outcome(verifier, t) for t in tokens.values()] == [ACCEPTED] * len(tokens)


def test_a_future_key_verifies_before_it_signs(
    key_ring: KeyRing, clock: Clock, tmp_path: Path
) -> None:
    present = key_ring.signing()[0]
    future = create_key(tmp_path, NOW + 30)
    key_ring.reload()
    token = sign(KeyRing(tmp_path, Clock(NOW + 30)))  # another replica, whose clock is ahead
    assert f'"kid":"{future}"' in urlsafe_b64decode(token.split(".")[0] + "==").decode()
    assert outcome(verify, token, key_ring, TERMS, NOW) == ACCEPTED
    assert key_ring.signing()[0] == present
    clock.now = NOW + 30
    assert key_ring.signing()[0] == future


def test_replacing_a_key_invalidates_its_tokens_even_when_cached(
    key_ring: KeyRing, clock: Clock, tmp_path: Path
) -> None:
    verifier, token = TokenVerifier(key_ring, TERMS, clock), sign(key_ring)
    assert verifier(token)
    (tmp_path / key_ring.signing()[0]).write_text(secrets.token_hex(32))
    assert key_ring.reload() is True
    assert outcome(verifier, token) == "signature"


def test_a_failed_reload_keeps_tokens_valid(
    key_ring: KeyRing, clock: Clock, tmp_path: Path
) -> None:
    verifier, token = TokenVerifier(key_ring, TERMS, clock), sign(key_ring)
    (tmp_path / key_ring.signing()[0]).unlink()
    with pytest.raises(KeysError):
        key_ring.reload()
    assert verifier(token)
    assert verifier(sign(key_ring, subject="guest-0002"))


def test_a_cached_token_is_not_verified_again(key_ring: CountingKeyRing, clock: Clock) -> None:
    verifier, token = TokenVerifier(key_ring, TERMS, clock), sign(key_ring)
    principal = verifier(token)
    assert key_ring.lookups == 1
    with pytest.raises(FrozenInstanceError):
        principal.org_id = "another"  # type: ignore[misc]
    assert verifier(token).org_id == ORG_ID
    assert key_ring.lookups == 1


def test_a_rejected_token_is_never_cached(key_ring: CountingKeyRing, clock: Clock) -> None:
    verifier = TokenVerifier(key_ring, TERMS, clock, size=2)
    good = sign(key_ring)
    verifier(good)
    for number in range(10):
        bad = good[:-43] + encode(bytes([number] * 32))
        assert outcome(verifier, bad) == "signature"
        assert outcome(verifier, bad) == "signature"
    assert key_ring.lookups == 21
    verifier(good)
    assert key_ring.lookups == 21


def test_the_cache_is_bounded(key_ring: CountingKeyRing, clock: Clock) -> None:
    verifier = TokenVerifier(key_ring, TERMS, clock, size=3)
    tokens = [sign(key_ring, subject=f"guest-{number:04}") for number in range(4)]
    for number, token in enumerate(tokens):
        assert verifier(token).subject == f"guest-{number:04}"
    assert key_ring.lookups == 4
    for token in tokens[1:]:
        verifier(token)
    assert key_ring.lookups == 4
    verifier(tokens[0])
    assert key_ring.lookups == 5


def test_a_token_verified_while_its_key_is_removed_is_not_cached(
    key_ring: CountingKeyRing, clock: Clock, tmp_path: Path
) -> None:
    verifier, old = TokenVerifier(key_ring, TERMS, clock), key_ring.signing()[0]
    token = sign(key_ring)

    def remove_key() -> None:
        create_key(tmp_path, NOW - 1)
        (tmp_path / old).unlink()
        key_ring.reload()
        verifier(sign(key_ring, subject="guest-0002"))

    key_ring.after_next_lookup = remove_key  # as another thread might
    assert verifier(token).subject == "guest-0001"
    assert outcome(verifier, token) == "key"
