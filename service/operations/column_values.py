"""Values of columns, from the JSON that a client sends to the text that PostgreSQL reads."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import orjson

from db.errors import InvalidValue
from openapi.tables import Column


def to_postgres(column: Column, value: Any, where: str = "body") -> str | None:
    """Return a value of a column as text for PostgreSQL. Raises `InvalidValue`."""
    match value:
        case None:
            return None
        case str():
            convert = _CONVERTERS.get(column.schema.get("format", ""))
            try:
                return convert(value) if convert else value
            except (ValueError, OverflowError):
                detail = f"must be a {column.schema['format']} in the years 1 to 9999"
                raise InvalidValue(where, f"/{column.name}", detail) from None
        case bool():
            return boolean_text(value)
        case dict() | list():
            return orjson.dumps(value).decode()
    return str(value)


def boolean_text(value: bool) -> str:
    """Return `true` or `false`."""
    return "true" if value else "false"


def merge_patch(target: Any, patch: Any) -> Any:
    """Return `target` with a JSON merge patch applied (RFC 7396 section 2)."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merge_patch(result.get(name), value)
    return result


def _date_time(text: str) -> str:
    """Return a time in UTC; a leap second becomes the next second, nanoseconds are cut off.

    Raises `ValueError` and `OverflowError`: RFC 3339 allows the year 0, and the year 10000 in UTC.
    """
    text = text.upper()
    is_leap_second = text[17:19] == "60"
    if is_leap_second:
        text = f"{text[:17]}59{text[19:]}"
    time = datetime.fromisoformat(text).astimezone(UTC)
    return (time + timedelta(seconds=1) if is_leap_second else time).isoformat()


def _date(text: str) -> str:
    return date.fromisoformat(text).isoformat()


_CONVERTERS: dict[str, Callable[[str], str]] = {"date-time": _date_time, "date": _date}
