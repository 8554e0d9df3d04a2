"""Guests sign in here, and exchange their token for one of another organization."""

import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from db import ids
from db.queries import guests, memberships
from db.tenancy import Session
from service.identity import tokens
from service.identity.keys import KeyRing
from service.identity.tokens import TokenTerms

NO_STORE = {"Cache-Control": "no-store"}
Answer = tuple[dict[str, Any], int, dict[str, str]]


async def guest(
    nobody: Session, keys: KeyRing, terms: TokenTerms, clock: Callable[[], float]
) -> Answer:
    # A database that was restored gives numbers again: random digits keep two guests apart.
    number = f"{await guests.next_number(nobody):04d}{secrets.randbelow(10**12):012d}"
    subject = f"guest-{number}"
    return _token(keys, terms, clock(), subject, ids.new()), 201, NO_STORE


async def token(
    body: dict[str, str],
    token_info: dict[str, Any],
    subject: Session,
    keys: KeyRing,
    terms: TokenTerms,
    clock: Callable[[], float],
) -> Answer:
    org_id = body["org_id"].lower()
    await memberships.require(subject, token_info["sub"], org_id)
    exchanged = _token(keys, terms, clock(), token_info["sub"], org_id, token_info["exp"])
    return exchanged, 200, NO_STORE


async def me(token_info: dict[str, Any]) -> Answer:
    principal = {
        "subject": token_info["sub"],
        "org_id": token_info["org_id"],
        "expires_at": datetime.fromtimestamp(token_info["exp"], UTC).isoformat(),
    }
    return principal, 200, NO_STORE


def _token(
    keys: KeyRing,
    terms: TokenTerms,
    now: float,
    subject: str,
    org_id: str,
    not_after: int | None = None,
) -> dict[str, Any]:
    token, expires = tokens.issue(
        keys, terms, subject=subject, org_id=org_id, now=now, not_after=not_after
    )
    return {
        "access_token": token,
        "token_type": "Bearer",
        "expires_in": max(0, expires - int(now)),
        "subject": subject,
        "org_id": org_id,
    }
