"""Access tokens: the one place that issues and verifies them (JWT, RFC 7519 and RFC 8725)."""

import base64
import json
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jwt
from jwt.algorithms import HMACAlgorithm

from service.identity.keys import KeyRing

MAX_BYTES = 8192
LEEWAY_SECONDS = 5  # seconds that another replica's clock may be ahead; none at the end of a token
_ALGORITHM = "HS256"
# 43 characters are the 32 bytes of HS256; a header with three short members stays below 256.
_COMPACT = re.compile(r"([A-Za-z0-9_-]{1,256})\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]{43})")
_BEARER = re.compile(r"(?i:bearer) +([A-Za-z0-9._~+/-]+=*)", re.ASCII)
_SUBJECT = re.compile(r"[\x21-\x7e]{1,128}")
_ORG_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_HEADER = frozenset({"alg", "kid", "typ"})
_TIMES = ("iat", "nbf", "exp")
_CLAIMS = ("iss", "aud", "sub", "org_id", *_TIMES)
_MAX_BRACKETS = 256  # bounds the depth; a subject may hold half of them as text


@dataclass(frozen=True)
class TokenTerms:
    """What the contract says of tokens: who issues them, for whom, for how many seconds."""

    issuer: str
    audience: str
    lifetime: int


class InvalidToken(Exception):
    """The one answer to every bad token; `reason` is one stable word for logs and metrics.

    oversize, scheme, malformed, algorithm, header, key, signature, claims, issuer, audience,
    subject, org, early, expired, lifetime
    """

    def __init__(self, reason: str) -> None:
        super().__init__("invalid token")
        self.reason = reason


def issue(
    keys: KeyRing,
    terms: TokenTerms,
    *,
    subject: str,
    org_id: str,
    now: float,
    ttl: int | None = None,
    not_after: int | None = None,
) -> tuple[str, int]:
    """Return a token and its end (epoch), at most `terms.lifetime` after `now`.

    `ttl` shortens its life, `not_after` (epoch) caps its end: an exchanged token never outlives
    the first. Raises `ValueError` for terms or claims that `verify` would refuse, and `KeysError`.
    """
    lifetime = terms.lifetime if ttl is None else ttl
    if not 0 < lifetime <= terms.lifetime:
        raise ValueError(f"ttl must be from 1 to {terms.lifetime} seconds")
    if not _SUBJECT.fullmatch(subject) or not _ORG_ID.fullmatch(org_id):
        raise ValueError("subject or org_id is malformed")
    begin = int(now)
    end = begin + lifetime if not_after is None else min(begin + lifetime, not_after)
    if end <= begin:
        raise ValueError("not_after is over")
    claims = {
        "iss": terms.issuer,
        "aud": terms.audience,
        "sub": subject,
        "org_id": org_id,
        "iat": begin,
        "nbf": begin,
        "exp": end,
    }
    kid, key = keys.signing()
    return jwt.encode(claims, key, _ALGORITHM, headers={"kid": kid}), end


def bearer(header: str) -> str:
    """Return the token of an Authorization header's value (RFC 6750 section 2.1, RFC 9110 11.4).

    Raises `InvalidToken`.
    """
    if len(header) > MAX_BYTES + 64:
        raise InvalidToken("oversize")
    credentials = _BEARER.fullmatch(header)
    if credentials is None:
        raise InvalidToken("scheme")
    return credentials[1]


def verify(token: str, keys: KeyRing, terms: TokenTerms, now: float) -> dict[str, Any]:
    """Return the principal: `iss aud sub org_id` (str) and `iat nbf exp` (epoch, int).

    Other claims are ignored (RFC 7519 section 4); `aud` is ours, also when the token lists more.
    Raises `InvalidToken` and nothing else.
    """
    if len(token) > MAX_BYTES:
        raise InvalidToken("oversize")
    segments = _COMPACT.fullmatch(token)
    if segments is None:
        raise InvalidToken("malformed")
    key = _key(_members(_decoded(segments[1])), keys)
    signature = _decoded(segments[3])
    # PyJWT's own decode() would trust the header's alg and check each character in Python.
    signed = token[: segments.end(2)].encode()
    if not HMACAlgorithm(HMACAlgorithm.SHA256).verify(signed, key, signature):
        raise InvalidToken("signature")
    return _principal(_members(_decoded(segments[2])), terms, now)


class TokenVerifier:
    """Verify tokens, remembering the good ones until they expire or the keys change."""

    def __init__(
        self,
        keys: KeyRing,
        terms: TokenTerms,
        clock: Callable[[], float] = time.time,
        size: int = 10_000,
    ) -> None:
        self._keys = keys
        self._terms = terms
        self._clock = clock
        self._size = size
        self._known: tuple[int, OrderedDict[str, dict[str, Any]]] = (-1, OrderedDict())

    def __call__(self, token: str) -> dict[str, Any]:
        """Return the principal as `verify` does. Raises `InvalidToken`."""
        now = self._clock()
        generation = self._keys.generation
        # A new dictionary, not an emptied one: a thread still at work with the old keys must not
        # put its token here.
        if self._known[0] != generation:
            self._known = (generation, OrderedDict())
        known = self._known[1]
        principal = known.get(token)
        if principal is None:
            principal = known[token] = verify(token, self._keys, self._terms, now)
            if len(known) > self._size:
                known.popitem(last=False)
        elif now >= principal["exp"]:
            known.pop(token, None)
            raise InvalidToken("expired")
        return principal.copy()


def _key(header: dict[str, Any], keys: KeyRing) -> bytes:
    if header.get("alg") != _ALGORITHM:
        raise InvalidToken("algorithm")
    if not header.keys() <= _HEADER or header.get("typ", "JWT") != "JWT":
        raise InvalidToken("header")
    kid = header.get("kid")
    key = keys.get(kid) if isinstance(kid, str) else None
    if key is None:
        raise InvalidToken("key")
    return key


def _principal(claims: dict[str, Any], terms: TokenTerms, now: float) -> dict[str, Any]:
    times = [claims.get(name) for name in _TIMES]
    if not all(type(time_) is int and 0 <= time_ < 2**53 for time_ in times):
        raise InvalidToken("claims")
    audience, subject, org_id = claims.get("aud"), claims.get("sub"), claims.get("org_id")
    if claims.get("iss") != terms.issuer:
        raise InvalidToken("issuer")
    listed = audience if isinstance(audience, list) else [audience]
    if terms.audience not in listed or not all(isinstance(name, str) for name in listed):
        raise InvalidToken("audience")
    if not isinstance(subject, str) or not _SUBJECT.fullmatch(subject):
        raise InvalidToken("subject")
    if not isinstance(org_id, str) or not _ORG_ID.fullmatch(org_id):
        raise InvalidToken("org")
    issued, begin, end = claims["iat"], claims["nbf"], claims["exp"]
    if max(issued, begin) > now + LEEWAY_SECONDS:
        raise InvalidToken("early")
    if now >= end:
        raise InvalidToken("expired")
    if not 0 < end - issued <= terms.lifetime:
        raise InvalidToken("lifetime")
    return {name: claims[name] for name in _CLAIMS} | {"aud": terms.audience}


def _decoded(segment: str) -> bytes:
    """Decode unpadded base64url in its canonical form only (RFC 7515 section 2, RFC 4648 3.5)."""
    try:
        content = base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
    except ValueError:
        content = b""
    if base64.urlsafe_b64encode(content).rstrip(b"=") != segment.encode():
        raise InvalidToken("malformed")
    return content


# An error is never raised inside `except`: the parser's own error holds the text of the token.
def _members(content: bytes) -> dict[str, Any]:
    """Parse one JSON object: UTF-8 without BOM, no member twice, no huge number, not deep."""
    members: Any = None
    try:
        text = content.decode()
        if text.count("{") + text.count("[") <= _MAX_BRACKETS:
            members = _JSON.decode(text)
    except (ValueError, RecursionError):
        members = None
    if not isinstance(members, dict):
        raise InvalidToken("malformed")
    return members


def _distinct(members: list[tuple[str, Any]]) -> dict[str, Any]:
    distinct = dict(members)
    if len(distinct) != len(members):
        raise ValueError("duplicate member")
    return distinct


def _number(text: str) -> float:
    number = float(text)
    if not abs(number) < 2**63:  # so that NaN fails too
        raise ValueError("not a number, or a huge one")
    return int(text) if text.lstrip("-").isdigit() else number


_JSON = json.JSONDecoder(
    object_pairs_hook=_distinct, parse_int=_number, parse_float=_number, parse_constant=_number
)
