"""Forges tokens without the code under test.

Members are given as JSON text, so that values which no JSON writer produces (NaN, 5000 digits, a
lone surrogate) can be part of a token.
"""

import base64
import hmac
import json
from collections.abc import Iterator
from dataclasses import dataclass

ORG_ID = "01939b1e-7a00-7000-8000-00000000ac3e"
NamedTokens = Iterator[tuple[str, str]]  # (name of the case, token)
Members = dict[str, str | None]  # name → JSON text; None omits the member

PEM = b"""-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE9GVJa5oeAdI6VQTX0eYgPhCn/MDF
ZPePgX1513iYy/VRCagH/IloSETNzXbhBsoLqSLfyBgY+EPjIFfS4aSZ2A==
-----END PUBLIC KEY-----"""


@dataclass(frozen=True)
class Case:
    """One Authorization header value, in Latin-1, and whether it must be accepted."""

    group: str
    name: str
    header: str
    is_accepted: bool


@dataclass(frozen=True)
class Forge:
    """Signs tokens that differ from a good one in any way; times are in seconds."""

    kid: str
    key: bytes
    header: Members
    claims: Members
    now: int
    lifetime: int

    def token(self, claims: Members | None = None, header: Members | None = None) -> str:
        """Return a good token with these members of claims and header replaced."""
        return self.seal(
            to_json(self.header | (header or {})), to_json(self.claims | (claims or {}))
        )

    def seal(
        self, header: bytes, payload: bytes, key: bytes | None = None, digest: str = "sha256"
    ) -> str:
        """Return a token with this header and payload, signed by HMAC."""
        signed = f"{encode(header)}.{encode(payload)}"
        secret = self.key if key is None else key
        return f"{signed}.{encode(hmac.digest(secret, signed.encode(), digest))}"


def encode(content: bytes) -> str:
    """Return unpadded base64url (RFC 7515 section 2)."""
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def quote(value: object) -> str:
    """Return a value as JSON text."""
    return json.dumps(value)


def to_json(members: Members) -> bytes:
    """Return a JSON object of members that are JSON text already."""
    present = (f"{quote(name)}:{value}" for name, value in members.items() if value is not None)
    return ("{" + ",".join(present) + "}").encode()
