"""From the Authorization header to the principal: the only place where a token is trusted."""

from collections.abc import Callable, Iterable
from typing import Any

from service.identity import tokens
from service.identity.tokens import InvalidToken


class MissingToken(Exception):
    """No Authorization header was sent."""


def authenticate(
    headers: Iterable[tuple[bytes, bytes]], verify: Callable[[str], dict[str, Any]]
) -> dict[str, Any]:
    """Return the verified claims. Raises `MissingToken` or `InvalidToken`."""
    values = [value for name, value in headers if name == b"authorization"]
    if not values:
        raise MissingToken
    if len(values) > 1:
        raise InvalidToken("malformed")
    return verify(tokens.bearer(values[0].decode("latin-1")))
