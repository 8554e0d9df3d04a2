"""What all peers share: token verification, cursors and ids, as in an ordinary service."""

import base64
import os
import time
import uuid
from typing import Any

import jwt

KEY = bytes.fromhex(os.environ["BENCH_KEY"])
DATABASE = os.environ["BENCH_DATABASE"]


def claims(header: str) -> dict[str, Any]:
    """Verify a bearer token. Raises `jwt.InvalidTokenError`."""
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer":
        raise jwt.InvalidTokenError
    verified: dict[str, Any] = jwt.decode(
        token, KEY, algorithms=["HS256"], audience="covenant-api", issuer="covenant"
    )
    return verified


def new_id() -> uuid.UUID:
    value = time.time_ns() // 1_000_000 << 80 | int.from_bytes(os.urandom(10), "big")
    return uuid.UUID(int=value & ~(0xF << 76) | 0x7 << 76)


def cursor(id: uuid.UUID) -> str:
    return base64.urlsafe_b64encode(id.bytes)[:22].decode()


def position(cursor: str | None) -> uuid.UUID:
    return uuid.UUID(bytes=base64.urlsafe_b64decode(cursor + "==")) if cursor else uuid.UUID(int=0)
