"""What a column of the contract is in PostgreSQL: its type, its checks and its default."""

import json
import re
from collections.abc import Iterator
from typing import Any

from dev.planner.regex_translation import pattern_of
from openapi.tables import Column

_TYPES = {
    ("string", "uuid"): "uuid",
    ("string", "date-time"): "timestamptz",
    ("string", "date"): "date",
    ("integer", "int32"): "integer",
}
# Also of `format: float`: a real would answer with other digits than it was sent. Also of `byte`:
# a bytea would answer with another base64 than it was sent.
_KINDS = {
    "string": "text",
    "integer": "bigint",
    "number": "double precision",
    "boolean": "boolean",
    "object": "jsonb",
    "array": "jsonb",
}
_INTEGERS = {"integer": (-(2**31), 2**31 - 1), "bigint": (-(2**63), 2**63 - 1)}
_LONGEST = {"ipv4": 15, "ipv6": 45}
# What PostgreSQL 18 takes for a name only between quotes (appendix C).
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
# What ends a line somewhere: statements are indented line by line, and read again from a file.
_BREAKS = re.compile("[\x01-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")


def quoted(name: str) -> str:
    """Return a name as SQL has it, between quotes only where they are needed."""
    return f'"{name}"' if name in _RESERVED else name


def type_of(column: Column) -> str:
    """Return the type, as a cast spells it."""
    kind = column.schema["type"]
    return _TYPES.get((kind, column.schema.get("format", "")), _KINDS[kind])


def definition(column: Column) -> str:
    """Return the column as `create table` and `add column` have it, without its checks."""
    words = [quoted(column.name), type_of(column)]
    words += ["not null"] * column.required
    words += [f"default {default}"] if (default := default_of(column)) else []
    return " ".join(words)


def default_of(column: Column) -> str | None:
    """Return the default as SQL has it, None where there is none."""
    if column.name in ("created_at", "updated_at"):
        return "now()"
    return literal(column.default) if column.default is not None else None


def literal(value: Any) -> str:
    """Return a value of JSON as a literal of SQL; objects and arrays as text."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = text.replace("'", "''")
    if not _BREAKS.search(text):
        return f"'{text}'"
    text = text.replace("\\", "\\\\")
    return "E'" + _BREAKS.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "'"


def checks(column: Column) -> dict[str, str]:
    """Return {name of a constraint behind `<table>_<column>_`: expression}.

    They hold what the service has checked already: nothing that passes it may fail here.
    """
    found = {"check": " and ".join(_limits(column))}
    pattern = column.schema.get("pattern")
    if "enum" not in column.schema and pattern and (expression := pattern_of(pattern)):
        found["pattern"] = f"{quoted(column.name)} ~ {literal(expression)}"
    return {name: expression for name, expression in found.items() if expression}


def _limits(column: Column) -> Iterator[str]:
    schema, name, kind = column.schema, quoted(column.name), type_of(column)
    if "enum" in schema:
        values = [literal(value) for value in schema["enum"] if value is not None]
        if len(values) == 1:
            yield f"{name} = {values[0]}"
        elif values:
            yield f"{name} in ({', '.join(values)})"
    elif kind == "text":
        most = schema.get("maxLength", _LONGEST.get(schema.get("format", "")))
        yield from _between(f"char_length({name})", schema.get("minLength") or None, most)
    elif kind == "jsonb":
        yield f"jsonb_typeof({name}) = {literal(schema['type'])}"
    elif schema["type"] in ("integer", "number"):
        least, most = schema.get("minimum"), schema.get("maximum")
        low, high = _INTEGERS.get(kind, (None, None))
        least = None if low is not None and least is not None and least <= low else least
        most = None if high is not None and most is not None and most >= high else most
        above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
        if above and least is not None:
            yield f"{name} > {literal(least)}"
        if below and most is not None:
            yield f"{name} < {literal(most)}"
        yield from _between(name, None if above else least, None if below else most)


def _between(what: str, least: Any, most: Any) -> Iterator[str]:
    if least is not None and most is not None:
        yield f"{what} between {literal(least)} and {literal(most)}"
    elif most is not None:
        yield f"{what} <= {literal(most)}"
    elif least is not None:
        yield f"{what} >= {literal(least)}"
