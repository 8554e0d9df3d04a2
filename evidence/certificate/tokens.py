"""Tokens that the service must reject, and the claims of those it issued."""

import base64
import json
import secrets
import time
from pathlib import Path
from typing import Any

import jwt

from evidence.certificate.actors import Token

HOUR_SECONDS = 3600


def claims_of(token: str) -> dict[str, Any]:
    """Return the claims of a token without verifying it. Raises `ValueError`, `LookupError`."""
    part = token.split(".")[1]
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return claims


def expired_token(token: str, keys_dir: Path | None) -> Token | None:
    """Return the token, but expired one hour ago; None without the key it was signed with."""
    if keys_dir is None:
        return None
    kid = jwt.get_unverified_header(token)["kid"]
    issued = int(time.time()) - 2 * HOUR_SECONDS
    claims = claims_of(token) | {"iat": issued, "nbf": issued, "exp": issued + HOUR_SECONDS}
    key = (keys_dir / kid).read_bytes().strip()
    return Token("the victim's token, expired", _encode(claims, key, "HS256", kid))


def forged_tokens(token: str, other: str) -> list[Token]:
    """Return tokens with the claims of `token` but without its signature."""
    kid, claims = jwt.get_unverified_header(token)["kid"], claims_of(token)
    header, _, signature = other.split(".")
    wrong_key = secrets.token_hex(32)
    return [
        Token(
            "the victim's claims, signed with another key",
            _encode(claims, wrong_key, "HS256", kid),
        ),
        Token("the victim's claims, unsigned", _encode(claims, "", "none", kid)),
        Token(
            "the victim's claims, the rival's signature",
            f"{header}.{token.split('.')[1]}.{signature}",
        ),
    ]


def _encode(claims: dict[str, Any], key: str | bytes, algorithm: str, kid: str) -> str:
    return jwt.encode(claims, key, algorithm, headers={"kid": kid})
