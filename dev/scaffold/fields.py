"""What FIELDS says: words that become properties, unique keys and indexes."""

import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import jsonschema_rs

from openapi.tables import SERVICE_COLUMNS

GRAMMAR = """\
FIELDS are words. A field is name:type, then `?` where it may be absent or null, or `=` and its
default:
  title:string(1..200)     one line of so many characters; string(200) is string(1..200)
  notes:text?              several lines, at most 10000 characters or as many as text(50000) says
  hours:number(0..24)      and integer; without bounds as far as every reader of JSON is exact
  done:boolean=false
  due:date-time?           and date, uuid, email
  state:enum(open|closed)=open
  labels:array(string(1..40),20)
  project_id:ref(projects)
                           a row of that table, with which this one is deleted;
                           ref(projects,restrict) keeps that one from being deleted
Keys and indexes are words of their own:
  unique(project_id,title) within the organization
  index(due)               what lists are filtered by; ref(…) has one
"""
LINE = r"[^\u0000-\u001f\u007f]"
LINES = r"[^\u0000-\u0008\u000b-\u001f\u007f]"
MAX_TEXT = 1_000_000
MAX_ITEMS = 100
MAX_KEY_CHARACTERS = 600  # an entry of an index has 2704 bytes, and a character up to 4
MAX_EXACT_INTEGER = 2**53 - 1  # beyond it many readers of JSON round
TYPES = (
    *("string", "text", "integer", "number", "boolean", "date", "date-time", "uuid", "email"),
    *("enum", "array", "ref"),
)
# Of the code that openapi-python-client 0.29 writes around the fields, which they would hide.
CLIENT_RESERVED = ("d", "cls", "field_dict", "to_dict", "from_dict")
SNAKE = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
ID = {"type": "string", "format": "uuid"}

_FIELD = re.compile(r"(?P<name>[^:=]*):(?P<type>[^()?=]*)(\((?P<of>.*)\))?(?P<optional>\??)")
_KEY = re.compile(r"(unique|index)\((.*)\)")
_SPAN = re.compile(r"(?:(?P<low>-?[0-9.]*[0-9])?\.\.)?(?P<high>-?[0-9]+(\.[0-9]+)?)")


class ScaffoldError(Exception):
    """Why nothing is written: one line that names the word and its position."""


@dataclass(frozen=True)
class Field:
    """One column: its schema as clients send it, without `nullable` and `default`."""

    name: str
    schema: Mapping[str, Any]
    optional: bool = False
    default: Any = None
    table: str | None = None
    on_delete: str = ""

    @property
    def wanted(self) -> bool:
        """Whether it must be sent to create a row."""
        return not self.optional and self.default is None


@dataclass(frozen=True)
class Fields:
    """What the words say, in their order."""

    columns: tuple[Field, ...] = ()
    unique: tuple[tuple[str, ...], ...] = ()
    indexes: tuple[tuple[str, ...], ...] = ()
    words: Mapping[str, str] = field(default_factory=dict)  # where each column was said


def parse(text: str) -> Fields:
    """Return what FIELDS says. Raises `ScaffoldError`."""
    columns: dict[str, Field] = {}
    said: dict[str, str] = {}
    keys: list[tuple[str, str, tuple[str, ...]]] = []
    for n, word in enumerate(text.split(), 1):
        where = f"FIELDS: word {n}, `{word}`"
        try:
            if match := _KEY.fullmatch(word):
                keys.append((where, match[1], tuple(match[2].split(","))))
                continue
            column = _field(word)
            if column.name in columns:
                raise ScaffoldError(f"`{column.name}` is there already")
        except ScaffoldError as error:
            raise ScaffoldError(f"{where}: {error}") from None
        columns[column.name], said[column.name] = column, where
    if not columns:
        raise ScaffoldError('FIELDS: names no field, such as FIELDS="title:string(1..200)"')
    for where, _, names in keys:
        for name in names:
            if name not in columns:
                raise ScaffoldError(f"{where}: no field `{name}`{_nearest(name, columns)}")
        if len(set(names)) < len(names):
            raise ScaffoldError(f"{where}: names a field twice")
        if any(columns[name].schema["type"] == "array" for name in names):
            raise ScaffoldError(f"{where}: an array cannot be part of a key")
        if sum(columns[name].schema.get("maxLength", 0) for name in names) > MAX_KEY_CHARACTERS:
            raise ScaffoldError(f"{where}: a key has at most {MAX_KEY_CHARACTERS} characters")
    return Fields(
        tuple(columns.values()),
        tuple(names for _, kind, names in keys if kind == "unique"),
        tuple(names for _, kind, names in keys if kind == "index"),
        said,
    )


def is_valid(schema: Mapping[str, Any], value: Any) -> bool:
    return jsonschema_rs.Draft4Validator(dict(schema), validate_formats=True).is_valid(value)


def _field(word: str) -> Field:
    head, equals, default = word.partition("=")
    match = _FIELD.fullmatch(head)
    if match is None:
        raise ScaffoldError("is not name:type, name:type? or name:type=value")
    name, kind, of = match["name"], match["type"], match["of"]
    if not SNAKE.fullmatch(name) or len(name) > 40:
        raise ScaffoldError(f"`{name}` is no name in snake_case of at most 40 characters")
    if name in ("true", "false", "null", "yes", "no", "on", "off"):
        raise ScaffoldError(f"`{name}` is no name to every reader of YAML")
    if name in CLIENT_RESERVED:
        raise ScaffoldError(f"`{name}` is a name that generated Python clients use themselves")
    if name in SERVICE_COLUMNS:
        raise ScaffoldError(f"`{name}` is the service's: it is there without being asked for")
    made = replace(_typed(name, kind, of), optional=bool(match["optional"]))
    return replace(made, default=_default(made, kind, default)) if equals else made


def _typed(name: str, kind: str, of: str | None) -> Field:
    if kind == "ref":
        table, _, on_delete = (of or "").partition(",")
        if not SNAKE.fullmatch(table) or on_delete not in ("", "cascade", "restrict"):
            raise ScaffoldError("write ref(table), ref(table,cascade) or ref(table,restrict)")
        return Field(name, ID, table=table, on_delete=on_delete or "cascade")
    return Field(name, _schema(kind, of))


def _schema(kind: str, of: str | None) -> dict[str, Any]:
    match kind:
        case "string" | "text":
            line, usual = (LINE, (1, 200)) if kind == "string" else (LINES, (0, 10_000))
            low, high = _span(of, *usual, 0, MAX_TEXT, int)
            least = {"minLength": low} if low else {}
            return {"type": "string", **least, "maxLength": high, "pattern": f"^{line}*$"}
        case "integer":
            low, high = _span(of, -MAX_EXACT_INTEGER, MAX_EXACT_INTEGER, -(2**63), 2**63 - 1, int)
            return {"type": "integer", "minimum": low, "maximum": high}
        case "number":
            low, high = _span(of, -MAX_EXACT_INTEGER, MAX_EXACT_INTEGER, -1e300, 1e300, float)
            return {"type": "number", "minimum": low, "maximum": high}
        case "enum":
            options = (of or "").split("|")
            if not all(re.fullmatch(r"[A-Za-z0-9_.-]{1,100}", option) for option in options):
                raise ScaffoldError("write enum(open|closed), in letters, digits, `_`, `.` and `-`")
            if len(set(options)) < len(options):
                raise ScaffoldError("names a value twice")
            return {"type": "string", "enum": options}
        case "array":
            return _array(of or "")
    if kind not in TYPES:
        raise ScaffoldError(
            f"unknown type `{kind}`{_nearest(kind, TYPES) or f': {_listed(TYPES)}'}"
        )
    if of is not None:
        raise ScaffoldError(f"{kind} takes nothing in brackets")
    if kind == "boolean":
        return {"type": "boolean"}
    if kind == "email":
        return {"type": "string", "format": "email", "maxLength": 254}
    return {"type": "string", "format": kind}


def _array(of: str) -> dict[str, Any]:
    match = re.fullmatch(r"([a-z-]+)(\(.*\))?(?:,([1-9][0-9]{0,4}))?", of)
    if match is None or match[1] in ("array", "ref"):
        raise ScaffoldError(
            "write array(type) or array(type,most), such as array(string(1..40),20)"
        )
    items = _schema(match[1], match[2] and match[2][1:-1])
    return {"type": "array", "maxItems": int(match[3] or MAX_ITEMS), "items": items}


def _span(of: str | None, low: Any, high: Any, least: Any, most: Any, kind: type) -> Any:
    """Return the bounds that `low..high` or `high` says, or those given."""
    if of is None:
        return low, high
    match = _SPAN.fullmatch(of)
    try:
        found = match and (kind(match["low"] or low), kind(match["high"]))
    except ValueError:
        found = None
    if not found:
        raise ScaffoldError(f"`({of})` is no range such as (1..{200 if kind is int else 1.5})")
    if not least <= found[0] <= found[1] <= most:
        raise ScaffoldError(f"`({of})` is no range within {least}..{most}")
    return tuple(int(bound) if bound == int(bound) else bound for bound in found)


def _default(column: Field, kind: str, text: str) -> Any:
    if column.optional or column.table or kind in ("uuid", "date", "date-time", "email", "array"):
        reason = "is optional" if column.optional else f"is of type {kind}"
        raise ScaffoldError(f"`{column.name}` {reason}: no default is kept for it")
    value: Any = text
    if kind in ("integer", "number", "boolean"):
        try:
            value = json.loads(text)
        except ValueError:
            value = None
    if not is_valid(column.schema, value):
        raise ScaffoldError(f"the default `{text}` is not valid")
    return value


def _nearest(word: str, known: Any) -> str:
    near = difflib.get_close_matches(word, list(known), 1)
    return f"; did you mean `{near[0]}`?" if near else ""


def _listed(words: Any) -> str:
    return f"there are {', '.join(words)}"
