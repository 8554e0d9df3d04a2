"""The types of FIELDS, and the JSON Schema of each: `string(1..200)`, `enum(open|closed)`."""

import difflib
import re
from collections.abc import Iterable
from typing import Any

# One line without control characters, and several lines with tabs and line breaks.
LINE_PATTERN = r"^[^\u0000-\u001f\u007f]*$"
TEXT_PATTERN = r"^[^\u0000-\u0008\u000b-\u001f\u007f]*$"
MAX_TEXT_CHARACTERS = 1_000_000
MAX_ITEMS = 100
MAX_EXACT_INTEGER = 2**53 - 1  # many JSON readers round integers beyond it (RFC 8259, section 6)
MIN_INTEGER, MAX_INTEGER = -(2**63), 2**63 - 1
MAX_NUMBER = 1e300
TYPES = (
    *("string", "text", "integer", "number", "boolean", "date", "date-time", "uuid", "email"),
    *("enum", "array", "ref"),
)

_RANGE = re.compile(r"(?:(?P<minimum>-?[0-9.]*[0-9])?\.\.)?(?P<maximum>-?[0-9]+(\.[0-9]+)?)")


class ScaffoldError(Exception):
    """Why a resource cannot be added: one line per issue."""

    def __init__(self, *issues: str) -> None:
        self.issues = issues
        super().__init__("\n".join(issues))


def schema_of(type_name: str, arguments: str | None) -> dict[str, Any]:
    """Return the schema of a type, whose `arguments` are what is between the parentheses, if any.

    Without a range, numbers reach as far as every JSON reader is exact. Raises `ScaffoldError`.
    """
    match type_name:
        case "string":
            minimum, maximum = _range(arguments, 1, 200, 0, MAX_TEXT_CHARACTERS, int)
            return _text(minimum, maximum, LINE_PATTERN)
        case "text":
            minimum, maximum = _range(arguments, 0, 10_000, 0, MAX_TEXT_CHARACTERS, int)
            return _text(minimum, maximum, TEXT_PATTERN)
        case "integer":
            minimum, maximum = _range(
                arguments, -MAX_EXACT_INTEGER, MAX_EXACT_INTEGER, MIN_INTEGER, MAX_INTEGER, int
            )
            return {"type": "integer", "minimum": minimum, "maximum": maximum}
        case "number":
            minimum, maximum = _range(
                arguments, -MAX_EXACT_INTEGER, MAX_EXACT_INTEGER, -MAX_NUMBER, MAX_NUMBER, float
            )
            return {"type": "number", "minimum": minimum, "maximum": maximum}
        case "enum":
            return _enum(arguments or "")
        case "array":
            return _array(arguments or "")
    if type_name not in TYPES:
        types = f"; the types are {', '.join(TYPES)}"
        raise ScaffoldError(f"unknown type `{type_name}`{suggestion(type_name, TYPES) or types}")
    if arguments is not None:
        raise ScaffoldError(f"`{type_name}` does not accept arguments in parentheses")
    if type_name == "boolean":
        return {"type": "boolean"}
    if type_name == "email":
        return {"type": "string", "format": "email", "maxLength": 254}
    return {"type": "string", "format": type_name}


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return a suggestion to append to a message, or "" if nothing known is similar."""
    matches = difflib.get_close_matches(word, list(known), 1)
    return f"; did you mean `{matches[0]}`?" if matches else ""


def _text(min_length: int, max_length: int, pattern: str) -> dict[str, Any]:
    minimum = {"minLength": min_length} if min_length else {}
    return {"type": "string", **minimum, "maxLength": max_length, "pattern": pattern}


def _enum(arguments: str) -> dict[str, Any]:
    values = arguments.split("|")
    if not all(re.fullmatch(r"[A-Za-z0-9_.-]{1,100}", value) for value in values):
        raise ScaffoldError("write enum(open|closed), in letters, digits, `_`, `.` and `-`")
    if len(set(values)) < len(values):
        raise ScaffoldError("the values of an enum must be unique")
    return {"type": "string", "enum": values}


def _array(arguments: str) -> dict[str, Any]:
    match = re.fullmatch(r"([a-z-]+)(\(.*\))?(?:,([1-9][0-9]{0,4}))?", arguments)
    if match is None or match[1] in ("array", "ref"):
        raise ScaffoldError(
            "write array(type) or array(type,max_items), such as array(string(1..40),20)"
        )
    items = schema_of(match[1], match[2] and match[2][1:-1])
    return {"type": "array", "maxItems": int(match[3] or MAX_ITEMS), "items": items}


def _range(
    arguments: str | None,
    default_minimum: int,
    default_maximum: int,
    lowest: float,
    highest: float,
    number_type: type[int] | type[float],
) -> tuple[Any, Any]:
    """Return (minimum, maximum) of `minimum..maximum` or `maximum`; without arguments the defaults.

    Raises `ScaffoldError` unless lowest <= minimum <= maximum <= highest.
    """
    if arguments is None:
        return default_minimum, default_maximum
    match = _RANGE.fullmatch(arguments)
    try:
        if match is None:
            raise ValueError
        minimum = number_type(match["minimum"] or default_minimum)
        maximum = number_type(match["maximum"])
    except ValueError:
        example = "(1..200)" if number_type is int else "(0.5..1.5)"
        raise ScaffoldError(f"`({arguments})` is not a range such as {example}") from None
    if not lowest <= minimum <= maximum <= highest:
        raise ScaffoldError(
            f"the range `({arguments})` must be ascending and within {lowest}..{highest}"
        )
    return _integer_if_whole(minimum), _integer_if_whole(maximum)


def _integer_if_whole(number: float) -> float:
    return int(number) if number == int(number) else number
