"""FIELDS, parsed: the columns of a resource, its unique keys and its indexes."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import jsonschema_rs

from dev.scaffold.field_types import ScaffoldError, schema_of, suggestion
from openapi.tables import SERVICE_COLUMNS

MAX_NAME_CHARACTERS = 40
MAX_KEY_CHARACTERS = 600  # an index entry is limited to 2704 bytes, and UTF-8 needs up to 4 each
# Local names in the models of openapi-python-client 0.29, which properties would shadow.
CLIENT_RESERVED_NAMES = ("d", "cls", "field_dict", "to_dict", "from_dict")
YAML_KEYWORDS = ("true", "false", "null", "yes", "no", "on", "off")
TYPES_WITHOUT_DEFAULT = ("uuid", "date", "date-time", "email", "array", "ref")
SNAKE_CASE = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
ID_SCHEMA = {"type": "string", "format": "uuid"}

_FIELD = re.compile(r"(?P<name>[^:=]*):(?P<type>[^()?=]*)(\((?P<arguments>.*)\))?(?P<optional>\??)")
_KEY = re.compile(r"(?P<kind>unique|index)\((?P<names>.*)\)")


@dataclass(frozen=True)
class Field:
    """One column: its schema as clients send it, without `nullable` and `default`."""

    name: str
    schema: Mapping[str, Any]
    optional: bool = False
    default: Any = None
    table: str | None = None  # the table that it references
    on_delete: str = ""

    @property
    def is_required(self) -> bool:
        """Whether clients must send it to create a row."""
        return not self.optional and self.default is None


@dataclass(frozen=True)
class Fields:
    """The columns, unique keys and indexes, each in the order of FIELDS.

    `locations` says in messages where each column is defined.
    """

    columns: tuple[Field, ...] = ()
    unique: tuple[tuple[str, ...], ...] = ()
    indexes: tuple[tuple[str, ...], ...] = ()
    locations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Key:
    """A `unique(…)` or `index(…)`."""

    location: str
    kind: str
    names: tuple[str, ...]


def parse(text: str) -> Fields:
    """Return what FIELDS defines. Raises `ScaffoldError` with every issue."""
    columns: dict[str, Field] = {}
    locations: dict[str, str] = {}
    keys: list[_Key] = []
    issues: list[str] = []
    for n, entry in enumerate(text.split(), 1):
        location = f"FIELDS, entry {n}, `{entry}`"
        if match := _KEY.fullmatch(entry):
            keys.append(_Key(location, match["kind"], tuple(match["names"].split(","))))
            continue
        try:
            column = _parse_field(entry)
        except ScaffoldError as error:
            issues += [f"{location}: {issue}" for issue in error.issues]
            continue
        if column.name in columns:
            issues.append(f"{location}: the field `{column.name}` is already defined")
        columns[column.name], locations[column.name] = column, location
    if not columns and not issues:
        issues.append('FIELDS: at least one field is required, such as "title:string(1..200)"')
    elif not issues:  # an invalid field would also be unknown to the keys
        issues += [
            f"{key.location}: {issue}" for key in keys if (issue := _key_issue(key, columns))
        ]
    if issues:
        raise ScaffoldError(*issues)
    return Fields(
        tuple(columns.values()),
        tuple(key.names for key in keys if key.kind == "unique"),
        tuple(key.names for key in keys if key.kind == "index"),
        locations,
    )


def _key_issue(key: _Key, columns: Mapping[str, Field]) -> str | None:
    for name in key.names:
        if name not in columns:
            return f"unknown field `{name}`{suggestion(name, columns)}"
    if len(set(key.names)) < len(key.names):
        return "a key cannot contain a field twice"
    schemas = [columns[name].schema for name in key.names]
    if any(schema["type"] == "array" for schema in schemas):
        return "a key cannot contain an array"
    if sum(schema.get("maxLength", 0) for schema in schemas) > MAX_KEY_CHARACTERS:
        return f"a key cannot exceed {MAX_KEY_CHARACTERS} characters in total: shorten its fields"
    return None


def _parse_field(entry: str) -> Field:
    head, equals, default = entry.partition("=")
    match = _FIELD.fullmatch(head)
    if match is None:
        raise ScaffoldError("write name:type, name:type? or name:type=default")
    name, type_name = match["name"], match["type"]
    _check_name(name)
    column = replace(
        _typed_field(name, type_name, match["arguments"]), optional=bool(match["optional"])
    )
    return replace(column, default=_default(column, type_name, default)) if equals else column


def _check_name(name: str) -> None:
    if not SNAKE_CASE.fullmatch(name) or len(name) > MAX_NAME_CHARACTERS:
        reason = f"must be snake_case and at most {MAX_NAME_CHARACTERS} characters long"
        raise ScaffoldError(f"the name `{name}` {reason}")
    if name in YAML_KEYWORDS:
        raise ScaffoldError(f"the name `{name}` is a keyword for many YAML readers")
    if name in CLIENT_RESERVED_NAMES:
        raise ScaffoldError(f"the name `{name}` is reserved in generated Python clients")
    if name in SERVICE_COLUMNS:
        raise ScaffoldError(f"the column `{name}` is added and filled by the service")


def _typed_field(name: str, type_name: str, arguments: str | None) -> Field:
    if type_name != "ref":
        return Field(name, schema_of(type_name, arguments))
    table, _, on_delete = (arguments or "").partition(",")
    if not SNAKE_CASE.fullmatch(table) or on_delete not in ("", "cascade", "restrict"):
        raise ScaffoldError("write ref(table), ref(table,cascade) or ref(table,restrict)")
    return Field(name, ID_SCHEMA, table=table, on_delete=on_delete or "cascade")


def _default(column: Field, type_name: str, text: str) -> Any:
    if column.optional:
        raise ScaffoldError("an optional field cannot have a default")
    if type_name in TYPES_WITHOUT_DEFAULT:
        raise ScaffoldError(f"a field of type {type_name} cannot have a default")
    value: Any = text
    if type_name in ("integer", "number", "boolean"):
        try:
            value = json.loads(text)
        except ValueError:
            value = None
    validator = jsonschema_rs.Draft4Validator(dict(column.schema), validate_formats=True)
    if not validator.is_valid(value):
        raise ScaffoldError(f"the default `{text}` is not valid for the field")
    return value
