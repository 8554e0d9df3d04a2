"""Parameters of an operation: read once from the request, typed and checked by the contract."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_plus, unquote_to_bytes

from service.http.problems import FieldError
from service.operations.validation import UUID, compile_schema

# RFC 8259 numbers: no `1_0`, no other script's digits, no `nan`; as long as 64 bits may be.
_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,18})", re.ASCII)
_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,18})(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?", re.ASCII)
_UUID = re.compile(UUID)
# What was sent cannot be read at all, which is told from every value.
INVALID = object()


@dataclass(frozen=True)
class Parameter:
    """One parameter of an operation, with everything about it worked out."""

    name: str
    where: str
    pointer: str
    argument: str
    required: bool
    default: Any
    many: bool
    read: Callable[[str], Any]
    check: Callable[[Any], list[FieldError]]


class UnsupportedParameter(Exception):
    """The contract asks for a way to send parameters that the service does not have."""


def compile_parameter(declared: dict[str, Any]) -> Parameter:
    """Return the reader of a parameter object without `$ref`. Raises `Unsupported`."""
    schema, where, name = declared["schema"], declared["in"], declared["name"]
    many = schema.get("type") == "array"
    kind = (schema["items"] if many else schema).get("type")
    if kind not in _READERS or where == "cookie" or (many and where != "query"):
        raise UnsupportedParameter(f"the service reads no {kind} parameters in {where}")
    if declared.get("style", "form") not in ("form", "simple") or not declared.get("explode", True):
        raise UnsupportedParameter("the service reads no other style than the default")
    check = compile_schema(schema, where, sent=True, prefix=f"/{name}")
    if schema.get("format") == "uuid" and not schema.keys() - {"type", "format", "description"}:
        check = _uuid_check(where, name)
    return Parameter(
        name=name.lower() if where == "header" else name,
        where=where,
        pointer=f"/{name}",
        argument=name.lower().replace("-", "_"),
        required=declared.get("required", False),
        default=schema.get("default"),
        many=many,
        read=_READERS[kind],
        check=check,
    )


def parse_query(raw: bytes) -> list[tuple[str, str]] | None:
    """Return the pairs of a query string, None when it is not UTF-8."""
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
    """Return a path segment decoded (RFC 3986 section 2.1), `BROKEN` when it is not UTF-8."""
    if "%" not in raw:
        return raw
    try:
        return unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        return INVALID


def read_parameter(
    parameter: Parameter, values: list[Any], arguments: dict[str, Any], faults: list[FieldError]
) -> None:
    """Put the value of a parameter among the arguments, or its faults among the faults."""
    pointer = parameter.pointer
    if not values:
        if parameter.required:
            faults.append(FieldError(parameter.where, pointer, "missing"))
        elif parameter.default is not None:
            arguments[parameter.argument] = parameter.default
        return
    if len(values) > 1 and not parameter.many:
        faults.append(FieldError(parameter.where, pointer, "given more than once"))
        return
    read = [INVALID if v is INVALID or "\0" in v else parameter.read(v) for v in values]
    if INVALID in read:
        faults.append(FieldError(parameter.where, pointer, "malformed"))
        return
    value = read if parameter.many else read[0]
    if found := parameter.check(value):
        faults.extend(found)
    else:
        arguments[parameter.argument] = value


def unknown_parameters(names: Iterable[str], known: frozenset[str]) -> list[FieldError]:
    """Return a fault when a query parameter is not in the contract."""
    return [
        FieldError(
            "query", f"/{name}" if re.fullmatch(r"[A-Za-z0-9_.-]{1,40}", name) else "", "unknown"
        )
        for name in dict.fromkeys(names)
        if name not in known
    ]


def _uuid_check(where: str, name: str) -> Callable[[Any], list[FieldError]]:
    fault = [FieldError(where, f"/{name}", "not a UUID")]
    return lambda value: [] if _UUID.match(value) and len(value) == 36 else fault


def _integer(text: str) -> Any:
    return int(text) if _INTEGER.fullmatch(text) else INVALID


def _number(text: str) -> Any:
    return float(text) if _NUMBER.fullmatch(text) else INVALID


def _boolean(text: str) -> Any:
    return {"true": True, "false": False}.get(text, INVALID)


_READERS: dict[Any, Callable[[str], Any]] = {
    "string": str,
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
}
