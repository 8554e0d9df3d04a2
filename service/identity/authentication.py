"""Authentication: from the Authorization header to the principal."""

from collections.abc import Callable, Iterable

from service.identity.tokens import Principal
from service.identity.verification import InvalidToken, bearer

Verify = Callable[[str], Principal]


class MissingToken(Exception):
    """The request has no Authorization header."""


def authenticate(headers: Iterable[tuple[bytes, bytes]], verify: Verify) -> Principal:
    """Return the principal of a request's headers. Raises `MissingToken` or `InvalidToken`."""
    values = [value for name, value in headers if name == b"authorization"]
    if not values:
        raise MissingToken
    if len(values) > 1:
        raise InvalidToken("malformed")
    return verify(bearer(values[0].decode("latin-1")))
