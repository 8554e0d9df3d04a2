"""Schemas of the contract, compiled once; their faults name the rule and never the value."""

import re
from collections.abc import Callable
from itertools import islice
from typing import Any

import jsonschema_rs

from service.http.problems import FieldError

UUID = "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$"
# RFC 4648 section 4; no validator knows the format `byte`.
BASE64 = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"
# Left out of what is compiled: they validate nothing.
_ANNOTATIONS = (
    "description",
    "title",
    "example",
    "deprecated",
    "externalDocs",
    "xml",
    "discriminator",
)
# A body may hold faults by the ten thousand; more than these are not even counted.
MAX_ERRORS = 1000
# Each error copies the value that it is of: of a larger one it is only said that it is wrong.
MAX_NODES = 2000
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,40}")

Validate = Callable[[Any], list[FieldError]]


def compile_schema(schema: dict[str, Any], where: str, *, sent: bool, prefix: str = "") -> Validate:
    """Return a function from a value to its faults.

    `sent` is true for what a client sends: there readOnly properties are refused, in a response
    writeOnly ones are. `schema` is OpenAPI 3.0's, without `$ref`.
    """
    rules = to_json_schema(schema, sent)
    validator = jsonschema_rs.Draft4Validator(rules, validate_formats=True)

    def faults(value: Any) -> list[FieldError]:
        if validator.is_valid(value):
            return []
        if _remaining(value, MAX_NODES) < 0:
            return [
                FieldError(where, prefix, f"not as in the contract, and over {MAX_NODES} values")
            ]
        found = (fault for error in validator.iter_errors(value) for fault in _faults(error))
        return list(islice(found, MAX_ERRORS))

    def _faults(error: Any) -> list[FieldError]:
        pointer = prefix + "".join(f"/{_pointer_token(part)}" for part in error.instance_path)
        rule = next((str(p) for p in reversed(error.schema_path) if isinstance(p, str)), "")
        if rule == "additionalProperties":
            return [
                FieldError(
                    where, f"{pointer}/{name}" if _NAME.fullmatch(name) else pointer, "unknown"
                )
                for name in error.kind.unexpected[:MAX_ERRORS]
            ]
        if rule == "required":
            return [FieldError(where, f"{pointer}/{error.kind.property}", "missing")]
        return [FieldError(where, pointer[:300], _message(rule, _lookup(rules, error.schema_path)))]

    return faults


def _remaining(value: Any, room: int) -> int:
    """Return what `room` is left when the values within are counted, below 0 when there is none."""
    room -= 1
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for part in parts:
        if room < 0:
            break
        room = _remaining(part, room)
    return room


def to_json_schema(schema: dict[str, Any], sent: bool) -> dict[str, Any]:
    """Return an OpenAPI 3.0 schema as JSON Schema Draft 4."""
    result: dict[str, Any] = {}
    hidden = _hidden(schema, "readOnly" if sent else "writeOnly")
    for key, value in schema.items():
        match key:
            case "properties":
                result[key] = {
                    n: to_json_schema(s, sent) for n, s in value.items() if n not in hidden
                }
            case "required":
                if needed := [name for name in value if name not in hidden]:
                    result[key] = needed
            case "items" | "not":
                result[key] = to_json_schema(value, sent)
            case "additionalProperties" if isinstance(value, dict):
                result[key] = to_json_schema(value, sent)
            case "allOf" | "anyOf" | "oneOf":
                result[key] = [to_json_schema(part, sent) for part in value]
            case "format" if value == "uuid":
                result["pattern"] = UUID
            case "format" if value == "byte" and "pattern" not in schema:
                result["pattern"] = BASE64
            case "nullable" | "readOnly" | "writeOnly" | "default":
                pass
            case _ if key not in _ANNOTATIONS and not key.startswith("x-"):
                result[key] = value
    if schema.get("nullable"):
        if "type" in result:
            result["type"] = [result["type"], "null"]
        if "enum" in result and None not in result["enum"]:
            result["enum"] = [*result["enum"], None]
    return result


def _hidden(schema: dict[str, Any], mark: str) -> set[str]:
    return {name for name, part in schema.get("properties", {}).items() if part.get(mark)}


def _lookup(schema: Any, path: list[str | int]) -> Any:
    for part in path:
        try:
            schema = schema[part]
        except (KeyError, IndexError, TypeError):
            return None
    return schema


def _pointer_token(part: str | int) -> str:
    """A JSON Pointer token; names that a client made up are not repeated."""
    text = str(part)
    return text if _NAME.fullmatch(text) else "*"


def _message(rule: str, limit: Any) -> str:
    match rule:
        case "type":
            kinds = limit if isinstance(limit, list) else [limit]
            return f"not of type {' or '.join(map(str, kinds))}"
        case "pattern":
            known = {UUID: "not a UUID", BASE64: "not base64"}
            return known.get(str(limit), "not of the pattern in the contract")
        case "format":
            return f"not a {limit}"
        case "enum":
            return "not one of the values in the contract"
        case "minLength":
            return f"shorter than {limit} characters"
        case "maxLength":
            return f"longer than {limit} characters"
        case "minimum" | "exclusiveMinimum":
            return "below the minimum in the contract"
        case "maximum" | "exclusiveMaximum":
            return "above the maximum in the contract"
        case "minItems" | "maxItems" | "minProperties" | "maxProperties":
            return f"breaks {rule} {limit}"
    return f"breaks {rule}" if rule else "not as in the contract"
