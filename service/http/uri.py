"""Decodes the path segments and the query string of a request target (RFC 3986)."""

from typing import Any
from urllib.parse import unquote_plus, unquote_to_bytes

INVALID = object()  # text that cannot be decoded; equal to no value


def parse_query(raw: bytes) -> list[tuple[str, str]] | None:
    """Return the (name, value) pairs of a query string, or None when it is not UTF-8."""
    if not raw:
        return []
    try:
        return [
            (unquote_plus(name, errors="strict"), unquote_plus(value, errors="strict"))
            for name, _, value in (part.partition("=") for part in raw.decode("ascii").split("&"))
            if name or value
        ]
    except UnicodeDecodeError:
        return None


def decode_segment(raw: str) -> Any:
    """Return a decoded path segment (section 2.1), or `INVALID` when it is not UTF-8."""
    if "%" not in raw:
        return raw
    try:
        return unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        return INVALID
