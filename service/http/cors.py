"""CORS (Fetch standard): browsers may call from the origins in the settings only, never `*`."""

from collections.abc import Sequence

from starlette.types import Scope

from service.http.responses import Headers

EXPOSED_HEADERS = (
    b"ETag, Idempotency-Replayed, Location, RateLimit, RateLimit-Policy, Retry-After, X-Request-Id"
)
PREFLIGHT_HEADERS = {
    "Access-Control-Allow-Methods": "GET, HEAD, POST, PUT, PATCH, DELETE",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, Idempotency-Key, If-Match,"
    " X-Request-Id",
    "Access-Control-Max-Age": "600",
}


class Cors:
    """The origins that browsers may call from."""

    def __init__(self, origins: Sequence[str]) -> None:
        self._origins = frozenset(origin.encode() for origin in origins)

    @property
    def is_enabled(self) -> bool:
        """Whether the settings list any origin."""
        return bool(self._origins)

    def headers(self, origin: bytes) -> Headers:
        """Return the headers of a response to a request from `origin`, never with a wildcard."""
        if origin not in self._origins:
            return [(b"vary", b"Origin")]
        return [
            (b"vary", b"Origin"),
            (b"access-control-allow-origin", origin),
            (b"access-control-expose-headers", EXPOSED_HEADERS),
        ]

    def is_preflight(self, scope: Scope) -> bool:
        """Return whether a request is a preflight from a known origin."""
        if scope["method"] != "OPTIONS":
            return False
        headers = dict(scope["headers"])
        is_cors = b"access-control-request-method" in headers
        return is_cors and headers.get(b"origin") in self._origins
