"""CORS (Fetch standard): browsers may call from the origins in the settings only, never `*`."""

from collections.abc import Iterable, Sequence

from starlette.types import Scope

from openapi.contract import Operation
from service.http.responses import Headers

# Headers of every request and response, which a contract need not declare.
REQUEST_HEADERS = ("Authorization", "Content-Type", "If-None-Match", "X-Request-Id")
RESPONSE_HEADERS = ("ETag", "X-Request-Id")
MAX_AGE_SECONDS = 600


class Cors:
    """The origins that browsers may call from, and what they may send and read."""

    def __init__(self, origins: Sequence[str], operations: Iterable[Operation]) -> None:
        """Take the lists of methods and headers from the operations of the contract."""
        operations = list(operations)
        self._origins = frozenset(origin.encode() for origin in origins)
        methods = {operation.method.upper() for operation in operations}
        methods |= {"HEAD"} if "GET" in methods else set()
        accepted = [p["name"] for o in operations for p in o.parameters if p["in"] == "header"]
        responses = [response for o in operations for response in o.responses.values()]
        returned = [name for response in responses for name in response.get("headers", {})]
        self.preflight_headers = {
            "Access-Control-Allow-Methods": ", ".join(sorted(methods)),
            "Access-Control-Allow-Headers": _names(REQUEST_HEADERS, accepted),
            "Access-Control-Max-Age": str(MAX_AGE_SECONDS),
        }
        self._exposed = _names(RESPONSE_HEADERS, returned).encode()

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
            (b"access-control-expose-headers", self._exposed),
        ]

    def is_preflight(self, scope: Scope) -> bool:
        """Return whether a request is a preflight from a known origin."""
        if scope["method"] != "OPTIONS":
            return False
        headers = dict(scope["headers"])
        is_cors = b"access-control-request-method" in headers
        return is_cors and headers.get(b"origin") in self._origins


def _names(always: Iterable[str], declared: Iterable[str]) -> str:
    """Return header names, which are case-insensitive, each once, as a list."""
    names = {name.lower(): name for name in (*declared, *always)}
    return ", ".join(names[name] for name in sorted(names))
