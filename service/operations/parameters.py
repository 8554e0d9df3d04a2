"""Parameters of an operation: read once from the request, typed, and validated."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from service.http.problems import FieldError
from service.http.uri import INVALID
from service.operations.validation import UUID, Validate, compile_schema

# RFC 8259 numbers: no `1_0`, no `nan`, no digits of other scripts; as many digits as 64 bits need.
_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,18})", re.ASCII)
_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,18})(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?", re.ASCII)
_UUID = re.compile(UUID)
_PRINTABLE_NAME = re.compile(r"[A-Za-z0-9_.-]{1,40}")


@dataclass(frozen=True)
class Parameter:
    """One parameter, compiled. `argument` is its name in the handler's signature."""

    name: str
    where: str
    pointer: str
    argument: str
    required: bool
    default: Any
    is_array: bool
    read: Callable[[str], Any]
    validate: Validate


class UnsupportedParameter(Exception):
    """The contract declares a serialization of parameters that the service does not support."""


def compile_parameter(declared: dict[str, Any]) -> Parameter:
    """Compile a parameter object (without `$ref`). Raises `UnsupportedParameter`."""
    schema, where, name = declared["schema"], declared["in"], declared["name"]
    is_array = schema.get("type") == "array"
    kind = (schema["items"] if is_array else schema).get("type")
    if kind not in _READERS or where == "cookie" or (is_array and where != "query"):
        raise UnsupportedParameter(f"parameters of type {kind} in {where} are not supported")
    is_default_style = declared.get("style", "form") in ("form", "simple")
    if not is_default_style or not declared.get("explode", True):
        raise UnsupportedParameter("only the default `style` and `explode` are supported")
    validate = compile_schema(schema, where, is_request=True, prefix=f"/{name}")
    if schema.get("format") == "uuid" and not schema.keys() - {"type", "format", "description"}:
        validate = _uuid_validator(where, name)
    return Parameter(
        name=name.lower() if where == "header" else name,
        where=where,
        pointer=f"/{name}",
        argument=name.lower().replace("-", "_"),
        required=declared.get("required", False),
        default=schema.get("default"),
        is_array=is_array,
        read=_READERS[kind],
        validate=validate,
    )


def read_parameter(
    parameter: Parameter,
    values: list[Any],
    arguments: dict[str, Any],
    errors: list[FieldError],
) -> None:
    """Add the value of a parameter to `arguments`, or its errors to `errors`."""
    pointer = parameter.pointer
    if not values:
        if parameter.required:
            errors.append(FieldError(parameter.where, pointer, "is missing"))
        elif parameter.default is not None:
            arguments[parameter.argument] = parameter.default
        return
    if len(values) > 1 and not parameter.is_array:
        errors.append(FieldError(parameter.where, pointer, "must not be sent more than once"))
        return
    items = [INVALID if v is INVALID or "\0" in v else parameter.read(v) for v in values]
    if INVALID in items:
        errors.append(FieldError(parameter.where, pointer, "is malformed"))
        return
    value = items if parameter.is_array else items[0]
    if found := parameter.validate(value):
        errors.extend(found)
    else:
        arguments[parameter.argument] = value


def unknown_parameters(names: Iterable[str], declared: frozenset[str]) -> list[FieldError]:
    """Return an error for each query parameter that the contract does not declare."""
    return [
        FieldError("query", f"/{name}" if _PRINTABLE_NAME.fullmatch(name) else "", "is unknown")
        for name in dict.fromkeys(names)
        if name not in declared
    ]


def _uuid_validator(where: str, name: str) -> Validate:
    """Return a validator that is faster than a compiled schema."""
    errors = [FieldError(where, f"/{name}", "must be a UUID")]
    return lambda value: [] if _UUID.match(value) and len(value) == 36 else errors


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
