"""What a column of the contract is in PostgreSQL: its type, its checks and its default."""

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


def type_of(column: Column) -> str:
    """Return the type, as a cast spells it."""
    kind = column.schema["type"]
    return _TYPES.get((kind, column.schema.get("format", "")), _KINDS[kind])
