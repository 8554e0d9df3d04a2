"""PostgreSQL types, check constraints and defaults for the columns of the contract."""

import json
import re
from collections.abc import Iterator
from typing import Any

from dev.planner.regex_translation import to_postgres
from openapi.tables import Column

_TYPES_BY_FORMAT = {
    ("string", "uuid"): "uuid",
    ("string", "date-time"): "timestamptz",
    ("string", "date"): "date",
    ("integer", "int32"): "integer",
}
# Values must come back as they were sent. So `format: float` is not a real, which would return
# other digits, and `format: byte` is not a bytea, which would return other base64.
_TYPES = {
    "string": "text",
    "integer": "bigint",
    "number": "double precision",
    "boolean": "boolean",
    "object": "jsonb",
    "array": "jsonb",
}
_INTEGER_RANGES = {"integer": (-(2**31), 2**31 - 1), "bigint": (-(2**63), 2**63 - 1)}
_MAX_LENGTHS = {"ipv4": 15, "ipv6": 45}
# The words that PostgreSQL 18 accepts as a name only in quotes (appendix C).
_RESERVED = frozenset(
    """all analyse analyze and any array as asc asymmetric authorization binary both case cast
    check collate collation column concurrently constraint create cross current_catalog
    current_date current_role current_schema current_time current_timestamp current_user default
    deferrable desc distinct do else end except false fetch for foreign freeze from full grant
    group having ilike in initially inner intersect into is isnull join lateral leading left like
    limit localtime localtimestamp natural not notnull null offset on only or order outer overlaps
    placing primary references returning right select session_user similar some symmetric
    system_user table tablesample then to trailing true union unique user using variadic verbose
    when where window with""".split()  # noqa: SIM905
)
# Line separators and control characters: statements are indented line by line in a Python file.
_CONTROL_CHARACTERS = re.compile("[\x01-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")


def quoted(name: str) -> str:
    """Return a name as an SQL identifier, quoted only if it is a reserved word."""
    return f'"{name}"' if name in _RESERVED else name


def type_of(column: Column) -> str:
    """Return the PostgreSQL type of a column, as a cast spells it."""
    kind = column.schema["type"]
    return _TYPES_BY_FORMAT.get((kind, column.schema.get("format", "")), _TYPES[kind])


def definition(column: Column) -> str:
    """Return the column for `create table` and `add column`, without its checks."""
    words = [quoted(column.name), type_of(column)]
    words += ["not null"] * column.required
    words += [f"default {default}"] if (default := default_of(column)) else []
    return " ".join(words)


def default_of(column: Column) -> str | None:
    """Return the default as an SQL expression, or None if there is none."""
    if column.name in ("created_at", "updated_at"):
        return "now()"
    return literal(column.default) if column.default is not None else None


def literal(value: Any) -> str:
    """Return a JSON value as an SQL literal; objects and arrays as JSON text."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = text.replace("'", "''")
    if not _CONTROL_CHARACTERS.search(text):
        return f"'{text}'"
    text = text.replace("\\", "\\\\")
    return "E'" + _CONTROL_CHARACTERS.sub(lambda match: f"\\u{ord(match[0]):04x}", text) + "'"


def checks(column: Column) -> dict[str, str]:
    """Return the check expressions by the suffix of their name: `<table>_<column>_<suffix>`.

    The service has validated the value before: no value that it accepts may violate a check.
    """
    expressions = {"check": " and ".join(_limits(column))}
    pattern = column.schema.get("pattern")
    if "enum" not in column.schema and pattern and (translated := to_postgres(pattern)):
        expressions["pattern"] = f"{quoted(column.name)} ~ {literal(translated)}"
    return {suffix: expression for suffix, expression in expressions.items() if expression}


def _limits(column: Column) -> Iterator[str]:
    schema, name, type_ = column.schema, quoted(column.name), type_of(column)
    if "enum" in schema:
        values = [literal(value) for value in schema["enum"] if value is not None]
        if len(values) == 1:
            yield f"{name} = {values[0]}"
        elif values:
            yield f"{name} in ({', '.join(values)})"
    elif type_ == "text":
        maximum = schema.get("maxLength", _MAX_LENGTHS.get(schema.get("format", "")))
        yield from _range(f"char_length({name})", schema.get("minLength") or None, maximum)
    elif type_ == "jsonb":
        yield f"jsonb_typeof({name}) = {literal(schema['type'])}"
    elif schema["type"] in ("integer", "number"):
        yield from _number_limits(schema, name, type_)


def _number_limits(schema: Any, name: str, type_: str) -> Iterator[str]:
    """Yield the limits that are narrower than the range of the type."""
    minimum, maximum = schema.get("minimum"), schema.get("maximum")
    lowest, highest = _INTEGER_RANGES.get(type_, (None, None))
    if lowest is not None and minimum is not None and minimum <= lowest:
        minimum = None
    if highest is not None and maximum is not None and maximum >= highest:
        maximum = None
    excludes_minimum = schema.get("exclusiveMinimum")
    excludes_maximum = schema.get("exclusiveMaximum")
    if excludes_minimum and minimum is not None:
        yield f"{name} > {literal(minimum)}"
    if excludes_maximum and maximum is not None:
        yield f"{name} < {literal(maximum)}"
    yield from _range(
        name, None if excludes_minimum else minimum, None if excludes_maximum else maximum
    )


def _range(expression: str, minimum: Any, maximum: Any) -> Iterator[str]:
    if minimum is not None and maximum is not None:
        yield f"{expression} between {literal(minimum)} and {literal(maximum)}"
    elif maximum is not None:
        yield f"{expression} <= {literal(maximum)}"
    elif minimum is not None:
        yield f"{expression} >= {literal(minimum)}"
