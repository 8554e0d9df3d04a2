import json
import random
import secrets
import time
from base64 import urlsafe_b64decode
from collections.abc import Callable, Iterator
from pathlib import Path

import jwt
import pytest

from service.identity.keys import KeyRing, KeysError, create_key
from service.identity.tokens import InvalidToken, TokenTerms, TokenVerifier, bearer, issue, verify
from tests.platform.corpus_tokens import ORG_ID, Case, build, encode

NOW = 1_795_420_800.0  # 2026-11-23 08:00:00 UTC
TERMS = TokenTerms("https://covenant.example", "covenant", 3600)
REASONS = {
    "control": set[str](),
    "alg": {"algorithm", "signature", "malformed"},
    "signature": {"signature", "malformed"},
    "time": {"claims", "malformed", "early", "expired", "lifetime"},
    "audience and issuer": {"audience", "issuer"},
    "sub": {"subject", "oversize"},
    "org_id": {"org"},
    "kid": {"key", "malformed"},
    "header": {"header"},
    "json": {"malformed", "algorithm", "claims", "oversize"},
    "structure": {"malformed", "scheme", "signature", "oversize"},
    "scheme": {"scheme"},
}


class Clock:
    """A clock that tests set."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class WatchedRing(KeyRing):
    """A key ring that counts how often a token is really verified."""

    lookups = 0
    meanwhile: Callable[[], object] | None = None

    def get(self, kid: str) -> bytes | None:
        self.lookups += 1
        key = super().get(kid)
        if self.meanwhile is not None:
            happening, self.meanwhile = self.meanwhile, None
            happening()
        return key


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keys(tmp_path: Path, clock: Clock) -> WatchedRing:
    create_key(tmp_path, NOW - 60)
    return WatchedRing(tmp_path, clock)


@pytest.fixture
def corpus(keys: KeyRing) -> list[Case]:
    return build(keys, TERMS, now=NOW)


def sign(keys: KeyRing, now: float = NOW, subject: str = "guest-0001") -> str:
    return issue(keys, TERMS, subject=subject, org_id=ORG_ID, now=now)[0]


def forged(keys: KeyRing, **changes: object) -> str:
    """Return a well-signed token that differs from a good one."""
    kid, key = keys.signing()
    claims = verify(sign(keys), keys, TERMS, NOW) | changes
    return jwt.api_jws.encode(json.dumps(claims).encode(), key, "HS256", {"kid": kid})


def answer(attempt: Callable[..., object], *arguments: object) -> str:
    """Return why a token was refused, or `accepted`. Another error fails the test."""
    try:
        attempt(*arguments)
    except InvalidToken as refused:
        return refused.reason
    return "accepted"


def chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def test_a_token_says_who_where_and_until_when(keys: KeyRing) -> None:
    token, exp = issue(keys, TERMS, subject="guest-0001", org_id=ORG_ID, now=NOW + 0.7)
    header, payload = (json.loads(urlsafe_b64decode(s + "==")) for s in token.split(".")[:2])
    assert header == {"alg": "HS256", "kid": keys.signing()[0], "typ": "JWT"}
    assert exp == NOW + 3600
    assert payload == {
        "iss": TERMS.issuer,
        "aud": TERMS.audience,
        "sub": "guest-0001",
        "org_id": ORG_ID,
        "iat": NOW,
        "nbf": NOW,
        "exp": exp,
    }
    assert verify(token, keys, TERMS, NOW + 0.7) == payload


def test_a_token_may_live_shorter_but_never_longer(keys: KeyRing) -> None:
    def exp(ttl: int | None = None, not_after: int | None = None, now: float = NOW) -> int:
        token, end = issue(
            keys, TERMS, subject="a", org_id=ORG_ID, now=now, ttl=ttl, not_after=not_after
        )
        assert verify(token, keys, TERMS, now)["exp"] == end
        return end

    assert exp(ttl=1) == NOW + 1
    assert exp(ttl=3600) == NOW + 3600
    assert exp(not_after=int(NOW) + 10) == NOW + 10
    assert exp(ttl=5, not_after=int(NOW) + 10) == NOW + 5
    assert exp(not_after=int(NOW) + 9999) == NOW + 3600
    assert exp(not_after=int(NOW) + 1, now=NOW + 0.9) == NOW + 1
    for ttl in (0, -1, 3601):
        with pytest.raises(ValueError, match="ttl must be from 1 to 3600"):
            exp(ttl=ttl)
    with pytest.raises(ValueError, match="not_after is over"):
        exp(not_after=int(NOW))


@pytest.mark.parametrize("subject", ["", "a b", "a\n", "a" * 129, "é", "\ud800"])
def test_no_token_is_issued_for_a_malformed_subject(keys: KeyRing, subject: str) -> None:
    with pytest.raises(ValueError, match="malformed"):
        issue(keys, TERMS, subject=subject, org_id=ORG_ID, now=NOW)


@pytest.mark.parametrize("org_id", ["", "*", ORG_ID.upper(), f"{ORG_ID}\n"])
def test_no_token_is_issued_for_a_malformed_org(keys: KeyRing, org_id: str) -> None:
    with pytest.raises(ValueError, match="malformed"):
        issue(keys, TERMS, subject="guest-0001", org_id=org_id, now=NOW)


@pytest.mark.parametrize("group", REASONS)
def test_the_corpus_is_answered_as_wanted(
    keys: KeyRing, corpus: list[Case], clock: Clock, group: str
) -> None:
    verifier = TokenVerifier(keys, TERMS, clock)
    cases = [case for case in corpus if case.group == group]
    for clock.now in (NOW, NOW + 60):
        answers = {c.name: answer(lambda header: verifier(bearer(header)), c.header) for c in cases}
        wrong = {
            case.name: answers[case.name]
            for case in cases
            if answers[case.name] not in ({"accepted"} if case.accepted else REASONS[group])
        }
        assert not wrong
    assert len(answers) == len(cases)


def test_the_corpus_is_whole(corpus: list[Case]) -> None:
    assert {case.group for case in corpus} == set(REASONS)
    assert len({case.header for case in corpus}) == len(corpus) >= 400
    assert sum(case.accepted for case in corpus) == 18


def test_every_bad_token_has_the_same_answer_and_shows_nothing(
    keys: KeyRing, corpus: list[Case]
) -> None:
    key = keys.signing()[1].decode()
    for case in corpus:
        if case.accepted:
            continue
        with pytest.raises(InvalidToken) as refused:
            verify(bearer(case.header), keys, TERMS, NOW)
        assert str(refused.value) == "invalid token"
        assert [type(error) for error in chain(refused.value)] == [InvalidToken]
        shown = repr(refused.value) + repr(refused.value.args) + repr(vars(refused.value))
        assert key not in shown, case.name
        assert len(shown) < 100, case.name


def test_a_bad_token_costs_less_than_five_milliseconds(keys: KeyRing, corpus: list[Case]) -> None:
    def cost(header: str) -> float:
        start = time.perf_counter()
        answer(lambda: verify(bearer(header), keys, TERMS, NOW))
        return time.perf_counter() - start

    slowest = max((min(cost(case.header) for _ in range(5)), case.name) for case in corpus)
    assert slowest[0] < 0.005, slowest


def test_no_token_with_one_byte_changed_is_accepted(keys: KeyRing) -> None:
    token, chance = sign(keys), random.Random(20261123)
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_."
    ends = [len(token.rsplit(".", dots)[0]) - 1 for dots in (0, 1, 2)]
    mutants = {token[:end] + letter + token[end + 1 :] for end in ends for letter in alphabet}
    mutants.discard(token)
    while len(mutants) < 10_000:
        place = chance.randrange(len(token))
        byte = chance.choice(alphabet) if chance.random() < 0.7 else chr(chance.randrange(256))
        if byte != token[place]:
            mutants.add(token[:place] + byte + token[place + 1 :])
    verifier = TokenVerifier(keys, TERMS, Clock())
    assert verifier(token)
    accepted = [m for m in sorted(mutants) if answer(verifier, m) == "accepted"]
    assert not accepted


def test_whatever_text_arrives_the_answer_is_invalid_token(keys: KeyRing) -> None:
    chance, good = random.Random(8725), sign(keys)
    verifier = TokenVerifier(keys, TERMS, Clock())
    texts = [
        "",
        "\ud800",
        "\udfff." * 3,
        "é" * 9000,
        "a" * 200_000,
        "." * 200_000,
        "\0",
        "\U0001f511",
    ]
    texts += [good + "\ud800", f"\ufeff{good}", good.replace("a", "\u0430"), "Bearer " * 30_000]
    for _ in range(3000):
        letters = [chr(chance.randrange(0x110000)) for _ in range(chance.randrange(60))]
        cut = chance.randrange(len(good))
        texts.append("".join(letters))
        texts.append(good[:cut] + "".join(letters) + chance.choice(("", ".", good[cut:])))
    for text in texts:
        if text != good:
            assert answer(verify, text, keys, TERMS, NOW) != "accepted"
            assert answer(verifier, text) != "accepted"
        answer(bearer, text)


def test_the_scheme_is_read_in_any_case() -> None:
    for scheme in ("Bearer", "bearer", "BEARER", "bEARer"):
        assert bearer(f"{scheme} a.b-c_d~e+f/g==") == "a.b-c_d~e+f/g=="
    assert bearer("Bearer   x") == "x"
    for header in ("Bearer x ", " Bearer x", "Bearer x\n", "Bearer ", "Bearer =", "Bearer x=y"):
        assert answer(bearer, header) == "scheme"
    assert answer(bearer, "Bearer " + "x" * 9000) == "oversize"


def test_a_token_ends_to_the_second_also_when_it_is_known(keys: KeyRing, clock: Clock) -> None:
    known = TokenVerifier(keys, TERMS, clock)
    token, exp = issue(keys, TERMS, subject="a", org_id=ORG_ID, now=NOW, ttl=60)
    assert known(token)
    for now, wanted in (
        (exp - 1, "accepted"),
        (exp - 0.001, "accepted"),
        (exp, "expired"),
        (exp + 1, "expired"),
        (exp - 1, "accepted"),
    ):
        clock.now = now
        assert answer(known, token) == wanted
        assert answer(TokenVerifier(keys, TERMS, clock), token) == wanted
        assert answer(verify, token, keys, TERMS, now) == wanted


def test_a_token_from_a_clock_five_seconds_ahead_is_accepted(keys: KeyRing) -> None:
    token = sign(keys)
    assert answer(verify, token, keys, TERMS, NOW - 5) == "accepted"
    assert answer(verify, token, keys, TERMS, NOW - 5.001) == "early"


def test_a_token_that_lives_longer_than_the_contract_says_is_refused(keys: KeyRing) -> None:
    token = sign(keys)
    shorter = TokenTerms(TERMS.issuer, TERMS.audience, TERMS.lifetime - 1)
    assert answer(verify, token, keys, TERMS, NOW) == "accepted"
    assert answer(verify, token, keys, shorter, NOW) == "lifetime"


def test_a_well_signed_token_of_more_than_eight_kibibytes_is_refused(
    keys: KeyRing, clock: Clock
) -> None:
    tokens = [forged(keys, x="x" * length) for length in range(5840, 5880)]
    for token in tokens:
        wanted = "accepted" if len(token) <= 8192 else "oversize"
        assert answer(verify, token, keys, TERMS, NOW) == wanted
        assert answer(TokenVerifier(keys, TERMS, clock), token) == wanted
    assert len(tokens[0]) <= 8192 < len(tokens[-1])


@pytest.mark.parametrize("claim", ["iat", "nbf", "exp"])
def test_a_time_is_an_integer_below_two_to_the_53rd(keys: KeyRing, claim: str) -> None:
    for wrong in (2**53, -1, True, False, float(NOW), str(int(NOW)), None):
        token = forged(keys, **{claim: wrong})
        assert answer(verify, token, keys, TERMS, NOW) == "claims", wrong
    assert answer(verify, forged(keys, exp=2**53 - 1), keys, TERMS, NOW) == "lifetime"


def test_a_token_for_another_service_is_refused(keys: KeyRing) -> None:
    token = sign(keys)
    assert answer(verify, token, keys, TokenTerms("x", "covenant", 3600), NOW) == "issuer"
    assert answer(verify, token, keys, TokenTerms(TERMS.issuer, "x", 3600), NOW) == "audience"


def test_claims_that_are_not_ours_are_not_handed_on(keys: KeyRing, corpus: list[Case]) -> None:
    plain = verify(sign(keys), keys, TERMS, NOW)
    headers = {case.name: case.header for case in corpus}
    for name in ("extra claim", "extra nested claim", "audience among others"):
        assert verify(bearer(headers[name]), keys, TERMS, NOW) == plain


def test_tokens_stay_good_through_three_rotations(
    keys: KeyRing, clock: Clock, tmp_path: Path
) -> None:
    verifier = TokenVerifier(keys, TERMS, clock)
    tokens = {keys.signing()[0]: sign(keys)}
    for _ in range(3):
        clock.now += 600
        kid = create_key(tmp_path, clock.now)
        assert keys.reload() is True
        tokens[kid] = sign(keys, clock.now)
        assert [answer(verifier, t) for t in tokens.values()] == ["accepted"] * len(tokens)
    assert len(tokens) == 4
    for kid in sorted(tokens)[:-1]:
        (tmp_path / kid).unlink()
        assert answer(verifier, tokens[kid]) == "accepted"
        assert keys.reload() is True
        assert answer(verifier, tokens.pop(kid)) == "key"
        assert [answer(verifier, t) for t in tokens.values()] == ["accepted"] * len(tokens)


def test_a_key_of_the_future_verifies_before_it_signs(
    keys: KeyRing, clock: Clock, tmp_path: Path
) -> None:
    present = keys.signing()[0]
    future = create_key(tmp_path, NOW + 30)
    keys.reload()
    ahead = sign(KeyRing(tmp_path, Clock(NOW + 30)))  # another replica, whose clock is ahead
    assert f'"kid":"{future}"' in urlsafe_b64decode(ahead.split(".")[0] + "==").decode()
    assert answer(verify, ahead, keys, TERMS, NOW) == "accepted"
    assert keys.signing()[0] == present
    clock.now = NOW + 30
    assert keys.signing()[0] == future


def test_a_replaced_key_refuses_the_tokens_of_the_old_one_also_when_cached(
    keys: KeyRing, clock: Clock, tmp_path: Path
) -> None:
    verifier, token = TokenVerifier(keys, TERMS, clock), sign(keys)
    assert verifier(token)
    (tmp_path / keys.signing()[0]).write_text(secrets.token_hex(32))
    assert keys.reload() is True
    assert answer(verifier, token) == "signature"


def test_a_broken_reload_leaves_tokens_good(keys: KeyRing, clock: Clock, tmp_path: Path) -> None:
    verifier, token = TokenVerifier(keys, TERMS, clock), sign(keys)
    (tmp_path / keys.signing()[0]).unlink()
    with pytest.raises(KeysError):
        keys.reload()
    assert verifier(token)
    assert verifier(sign(keys, subject="guest-0002"))


def test_a_known_token_is_not_verified_again(keys: WatchedRing, clock: Clock) -> None:
    verifier, token = TokenVerifier(keys, TERMS, clock), sign(keys)
    first = verifier(token)
    assert keys.lookups == 1
    first["org_id"] = "another"
    assert verifier(token)["org_id"] == ORG_ID
    assert keys.lookups == 1


def test_a_wrong_token_is_never_remembered(keys: WatchedRing, clock: Clock) -> None:
    verifier = TokenVerifier(keys, TERMS, clock, size=2)
    good = sign(keys)
    verifier(good)
    for number in range(10):
        wrong = good[:-43] + encode(bytes([number] * 32))
        assert answer(verifier, wrong) == "signature"
        assert answer(verifier, wrong) == "signature"
    assert keys.lookups == 21
    verifier(good)
    assert keys.lookups == 21


def test_only_so_many_tokens_are_remembered(keys: WatchedRing, clock: Clock) -> None:
    verifier = TokenVerifier(keys, TERMS, clock, size=3)
    tokens = [sign(keys, subject=f"guest-{number:04}") for number in range(4)]
    for number, token in enumerate(tokens):
        assert verifier(token)["sub"] == f"guest-{number:04}"
    assert keys.lookups == 4
    for token in tokens[1:]:
        verifier(token)
    assert keys.lookups == 4
    verifier(tokens[0])
    assert keys.lookups == 5


def test_a_token_verified_while_its_key_goes_is_not_remembered(
    keys: WatchedRing, clock: Clock, tmp_path: Path
) -> None:
    verifier, old = TokenVerifier(keys, TERMS, clock), keys.signing()[0]
    token = sign(keys)

    def another_thread() -> None:
        create_key(tmp_path, NOW - 1)
        (tmp_path / old).unlink()
        keys.reload()
        verifier(sign(keys, subject="guest-0002"))

    keys.meanwhile = another_thread
    assert verifier(token)["sub"] == "guest-0001"
    assert answer(verifier, token) == "key"
