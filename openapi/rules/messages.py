"""The wording that the rules share."""

import difflib
import json
from collections.abc import Iterable, Sequence
from typing import Any

from openapi.documents import NodePath

Violation = tuple[NodePath, str]  # the path of the offending node, and the reason


def quote(value: Any) -> str:
    """Return `value` as JSON, cut to 60 characters."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:59]}…"


def enumerate_names(names: Iterable[Any], conjunction: str = "or") -> str:
    """Return `a, b or c`."""
    *first, last = (name if isinstance(name, str) else json.dumps(name) for name in names)
    return f"{', '.join(first)} {conjunction} {last}" if first else last


def missing_responses(codes: Sequence[str]) -> str:
    """Return `responses 400 and 404 are missing`."""
    noun, verb = ("response", "is") if len(codes) == 1 else ("responses", "are")
    return f"{noun} {enumerate_names(codes, 'and')} {verb} missing"


def not_one_of(value: Any, options: list[Any]) -> str:
    """Return why `value` is rejected where only `options` are allowed."""
    return f"must be {enumerate_names(options)}, not {quote(value)}{suggest(value, options)}"


def suggest(name: Any, options: Iterable[Any]) -> str:
    """Return `; did you mean …?` if one of the options resembles `name`, else an empty string."""
    match = closest_match(name, options)
    return f"; did you mean `{match}`?" if match else ""


def closest_match(name: Any, options: Iterable[Any]) -> str | None:
    """Return the option that resembles `name` most, or None if none does."""
    names = sorted(option for option in options if isinstance(option, str))
    matches = difflib.get_close_matches(name, names, 1) if isinstance(name, str) else []
    return matches[0] if matches else None
