"""Access tokens: the principal, the issuer, and a verifier with a cache."""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import jwt

from service.identity.keys import KeyRing
from service.identity.verification import (
    ALGORITHM,
    ORG_ID,
    SUBJECT,
    InvalidToken,
    TokenTerms,
    verify,
)

CACHE_SIZE = 10_000


@dataclass(frozen=True, slots=True)
class Principal:
    """Who sends a request, and the organization that the token is bound to.

    `expires_at` is in seconds since the epoch.
    """

    subject: str
    org_id: str
    expires_at: int


class TokenIssuer:
    """Issues tokens with the current signing key."""

    def __init__(self, keys: KeyRing, terms: TokenTerms, clock: Callable[[], float]) -> None:
        self._keys = keys
        self._terms = terms
        self._clock = clock

    def issue(
        self, subject: str, org_id: str, *, not_after: int | None = None
    ) -> tuple[str, Principal, int]:
        """Return a token, its principal and its remaining lifetime (s).

        `not_after` (epoch) caps its expiry. Raises `InvalidToken` when `not_after` has passed.
        """
        now = self._clock()
        if not_after is not None and not_after <= int(now):
            raise InvalidToken("expired")
        token, expires_at = issue(
            self._keys, self._terms, subject=subject, org_id=org_id, now=now, not_after=not_after
        )
        return token, Principal(subject, org_id, expires_at), expires_at - int(now)


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
    """Return a token and its expiry (epoch), at most `terms.lifetime` after `now`.

    `ttl` (s) shortens its lifetime, `not_after` (epoch) caps its expiry: an exchanged token never
    outlives the original. Raises `ValueError` for claims that `verify` would reject, and
    `KeysError` when no key can sign.
    """
    lifetime = terms.lifetime if ttl is None else ttl
    if not 0 < lifetime <= terms.lifetime:
        raise ValueError(f"ttl must be from 1 to {terms.lifetime} seconds")
    if not SUBJECT.fullmatch(subject) or not ORG_ID.fullmatch(org_id):
        raise ValueError("subject or org_id is malformed")
    issued_at = int(now)
    expires_at = issued_at + lifetime
    if not_after is not None:
        expires_at = min(expires_at, not_after)
    if expires_at <= issued_at:
        raise ValueError("not_after has passed")
    claims = {
        "iss": terms.issuer,
        "aud": terms.audience,
        "sub": subject,
        "org_id": org_id,
        "iat": issued_at,
        "nbf": issued_at,
        "exp": expires_at,
    }
    kid, key = keys.signing()
    return jwt.encode(claims, key, ALGORITHM, headers={"kid": kid}), expires_at


class TokenVerifier:
    """Verifies tokens, and caches the principals of good ones until they expire or keys change."""

    def __init__(
        self,
        keys: KeyRing,
        terms: TokenTerms,
        clock: Callable[[], float] = time.time,
        size: int = CACHE_SIZE,
    ) -> None:
        self._keys = keys
        self._terms = terms
        self._clock = clock
        self._size = size
        self._cache: tuple[int, OrderedDict[str, Principal]] = (-1, OrderedDict())

    def __call__(self, token: str) -> Principal:
        """Return the principal of a token. Raises `InvalidToken`."""
        now = self._clock()
        generation = self._keys.generation
        # Replaced, not cleared: a thread that uses the old keys must not add to the new cache.
        if self._cache[0] != generation:
            self._cache = (generation, OrderedDict())
        cache = self._cache[1]
        principal = cache.get(token)
        if principal is None:
            claims = verify(token, self._keys, self._terms, now)
            principal = Principal(claims["sub"], claims["org_id"], claims["exp"])
            cache[token] = principal
            if len(cache) > self._size:
                cache.popitem(last=False)
        elif now >= principal.expires_at:
            cache.pop(token, None)
            raise InvalidToken("expired")
        return principal
