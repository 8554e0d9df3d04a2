"""Sign-in for guests, and the exchange of a token for one of another organization."""

import secrets
from datetime import UTC, datetime
from typing import Any

from db import ids
from db.queries import guests, memberships
from db.tenancy import Session
from service.identity.tokens import Principal, TokenIssuer

NO_STORE = {"Cache-Control": "no-store"}
Response = tuple[dict[str, Any], int, dict[str, str]]


async def guest(anonymous: Session, issuer: TokenIssuer) -> Response:
    # A database restored from a backup issues numbers again; random digits keep subjects unique.
    number = f"{await guests.next_number(anonymous):04d}{secrets.randbelow(10**12):012d}"
    issued = issuer.issue(f"guest-{number}", ids.new())
    return _token_response(*issued), 201, NO_STORE


async def token(
    body: dict[str, str], principal: Principal, subject: Session, issuer: TokenIssuer
) -> Response:
    org_id = body["org_id"].lower()
    await memberships.require(subject, principal.subject, org_id)
    issued = issuer.issue(principal.subject, org_id, not_after=principal.expires_at)
    return _token_response(*issued), 200, NO_STORE


async def me(principal: Principal) -> Response:
    body = {
        "subject": principal.subject,
        "org_id": principal.org_id,
        "expires_at": datetime.fromtimestamp(principal.expires_at, UTC).isoformat(),
    }
    return body, 200, NO_STORE


def _token_response(token: str, principal: Principal, expires_in: int) -> dict[str, Any]:
    return {
        "access_token": token,
        "token_type": "Bearer",
        "expires_in": expires_in,
        "subject": principal.subject,
        "org_id": principal.org_id,
    }
