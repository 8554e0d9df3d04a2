"""Verification of access tokens (JWT, RFC 7519 and RFC 8725)."""

import base64
import json
import re
from dataclasses import dataclass
from typing import Any

from jwt.algorithms import HMACAlgorithm

from service.identity.keys import KeyRing

MAX_BYTES = 8192
LEEWAY_SECONDS = 5  # how far another replica's clock may be ahead; not applied to `exp`
ALGORITHM = "HS256"
SUBJECT = re.compile(r"[\x21-\x7e]{1,128}")
ORG_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
# An HS256 signature has 32 bytes, 43 characters of base64url; our headers are far below 256.
_COMPACT = re.compile(r"([A-Za-z0-9_-]{1,256})\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]{43})")
_BEARER = re.compile(r"(?i:bearer) +([A-Za-z0-9._~+/-]+=*)", re.ASCII)
_HEADER = frozenset({"alg", "kid", "typ"})
_TIMES = ("iat", "nbf", "exp")
_CLAIMS = ("iss", "aud", "sub", "org_id", *_TIMES)
_MAX_BRACKETS = 256  # limits the nesting; a subject may contain 128 brackets as text


@dataclass(frozen=True)
class TokenTerms:
    """Issuer, audience and lifetime (s) of the service's tokens, as the contract declares them."""

    issuer: str
    audience: str
    lifetime: int


class InvalidToken(Exception):
    """Raised for every bad token; `reason` is one stable word for logs and metrics.

    oversize, scheme, malformed, algorithm, header, key, signature, claims, issuer, audience,
    subject, org, early, expired, lifetime
    """

    def __init__(self, reason: str) -> None:
        super().__init__("invalid token")
        self.reason = reason


def bearer(header: str) -> str:
    """Return the token of an Authorization header (RFC 6750 section 2.1, RFC 9110 section 11.4).

    Raises `InvalidToken`.
    """
    if len(header) > MAX_BYTES + 64:
        raise InvalidToken("oversize")
    credentials = _BEARER.fullmatch(header)
    if credentials is None:
        raise InvalidToken("scheme")
    return credentials[1]


def verify(token: str, keys: KeyRing, terms: TokenTerms, now: float) -> dict[str, Any]:
    """Return the claims: `iss aud sub org_id` (str) and `iat nbf exp` (epoch, int).

    Other claims are ignored (RFC 7519 section 4). `aud` is ours alone, even if the
    token lists others. Raises `InvalidToken` and nothing else.
    """
    if len(token) > MAX_BYTES:
        raise InvalidToken("oversize")
    segments = _COMPACT.fullmatch(token)
    if segments is None:
        raise InvalidToken("malformed")
    key = _key(_json_object(_decode(segments[1])), keys)
    signature = _decode(segments[3])
    # PyJWT's decode() would trust the header's alg, and checks each character in Python.
    signed = token[: segments.end(2)].encode()
    if not HMACAlgorithm(HMACAlgorithm.SHA256).verify(signed, key, signature):
        raise InvalidToken("signature")
    return _check_claims(_json_object(_decode(segments[2])), terms, now)


def _key(header: dict[str, Any], keys: KeyRing) -> bytes:
    if header.get("alg") != ALGORITHM:
        raise InvalidToken("algorithm")
    if not header.keys() <= _HEADER or header.get("typ", "JWT") != "JWT":
        raise InvalidToken("header")
    kid = header.get("kid")
    key = keys.get(kid) if isinstance(kid, str) else None
    if key is None:
        raise InvalidToken("key")
    return key


def _check_claims(claims: dict[str, Any], terms: TokenTerms, now: float) -> dict[str, Any]:
    times = [claims.get(name) for name in _TIMES]
    if not all(type(value) is int and 0 <= value < 2**53 for value in times):
        raise InvalidToken("claims")
    audience, subject, org_id = claims.get("aud"), claims.get("sub"), claims.get("org_id")
    if claims.get("iss") != terms.issuer:
        raise InvalidToken("issuer")
    audiences = audience if isinstance(audience, list) else [audience]
    if terms.audience not in audiences or not all(isinstance(name, str) for name in audiences):
        raise InvalidToken("audience")
    if not isinstance(subject, str) or not SUBJECT.fullmatch(subject):
        raise InvalidToken("subject")
    if not isinstance(org_id, str) or not ORG_ID.fullmatch(org_id):
        raise InvalidToken("org")
    issued_at, not_before, expires_at = claims["iat"], claims["nbf"], claims["exp"]
    if max(issued_at, not_before) > now + LEEWAY_SECONDS:
        raise InvalidToken("early")
    if now >= expires_at:
        raise InvalidToken("expired")
    if not 0 < expires_at - issued_at <= terms.lifetime:
        raise InvalidToken("lifetime")
    return {name: claims[name] for name in _CLAIMS} | {"aud": terms.audience}


def _decode(segment: str) -> bytes:
    """Decode unpadded base64url, in its canonical form only (RFC 7515 section 2, RFC 4648 3.5)."""
    try:
        content = base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
    except ValueError:
        content = b""
    if base64.urlsafe_b64encode(content).rstrip(b"=") != segment.encode():
        raise InvalidToken("malformed")
    return content


# Raises nothing inside `except`: the parser's error, which contains the token, would be chained.
def _json_object(content: bytes) -> dict[str, Any]:
    """Parse one JSON object: UTF-8 without BOM, no duplicate member, no huge number, not deep."""
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
    if not abs(number) < 2**63:  # NaN fails, too
        raise ValueError("not a number, or too large")
    return int(text) if text.lstrip("-").isdigit() else number


_JSON = json.JSONDecoder(
    object_pairs_hook=_distinct, parse_int=_number, parse_float=_number, parse_constant=_number
)
