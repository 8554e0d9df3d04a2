"""Values of columns, from the JSON that a client sends to what PostgreSQL reads."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import orjson

from db.errors import InvalidValue
from openapi.tables import Column


def to_postgres(column: Column, value: Any, where: str = "body") -> str | None:
    """Return a value of a column as PostgreSQL reads it. Raises `Invalid`."""
    match value:
        case None:
            return None
        case str():
            bounded = _BOUNDED.get(column.schema.get("format", ""))
            try:
                return bounded(value) if bounded else value
            except (ValueError, OverflowError):
                unit = f"not a {column.schema['format']} of the years 1 to 9999"
                raise InvalidValue(where, f"/{column.name}", unit) from None
        case bool():
            return boolean_text(value)
        case dict() | list():
            return orjson.dumps(value).decode()
    return str(value)


def boolean_text(value: bool) -> str:
    return "true" if value else "false"


def merge_patch(target: Any, patch: Any) -> Any:
    """Return a value with a merge patch applied (RFC 7396 section 2)."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merge_patch(result.get(name), value)
    return result


def _time(text: str) -> str:
    """Return a time in UTC: a leap second as the next one, digits below microseconds cut off.

    Raises `ValueError` and `OverflowError`: RFC 3339 has a year 0 and, in UTC, a year 10000.
    """
    text = text.upper()
    leap = text[17:19] == "60"
    time = datetime.fromisoformat(f"{text[:17]}59{text[19:]}" if leap else text).astimezone(UTC)
    return (time + timedelta(seconds=1) if leap else time).isoformat()


def _date(text: str) -> str:
    return date.fromisoformat(text).isoformat()


_BOUNDED: dict[str, Callable[[str], str]] = {"date-time": _time, "date": _date}
