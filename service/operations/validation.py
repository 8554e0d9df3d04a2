"""Validation: schemas of the contract, compiled once. Errors name the rule, never the value."""

import re
from collections.abc import Callable
from itertools import islice
from typing import Any

import jsonschema_rs

from service.http.problems import FieldError

UUID = "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$"
# RFC 4648 section 4; no validator knows the format `byte`.
BASE64 = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"
# Keywords that validate nothing.
_ANNOTATIONS = (
    "description",
    "title",
    "example",
    "deprecated",
    "externalDocs",
    "xml",
    "discriminator",
)
# A body may contain tens of thousands of errors; no more than this are collected.
MAX_ERRORS = 1000
# Each error copies the value that it is about, so a value with more nodes gets one error only.
MAX_NODES = 2000
_PRINTABLE_NAME = re.compile(r"[A-Za-z0-9_.-]{1,40}")

Validate = Callable[[Any], list[FieldError]]


def compile_schema(
    schema: dict[str, Any], where: str, *, is_request: bool, prefix: str = ""
) -> Validate:
    """Return a function from a value to its errors.

    In a request, readOnly properties are rejected; in a response, writeOnly ones are. `schema` is
    an OpenAPI 3.0 schema without `$ref`; `prefix` is the JSON Pointer of the value.
    """
    rules = to_json_schema(schema, is_request=is_request)
    validator = jsonschema_rs.Draft4Validator(rules, validate_formats=True)

    def validate(value: Any) -> list[FieldError]:
        if validator.is_valid(value):
            return []
        if _remaining_nodes(value, MAX_NODES) < 0:
            detail = f"does not match the contract, and contains more than {MAX_NODES} values"
            return [FieldError(where, prefix, detail)]
        errors = (e for error in validator.iter_errors(value) for e in field_errors(error))
        return list(islice(errors, MAX_ERRORS))

    def field_errors(error: Any) -> list[FieldError]:
        pointer = prefix + "".join(f"/{_pointer_token(part)}" for part in error.instance_path)
        rule = next((str(p) for p in reversed(error.schema_path) if isinstance(p, str)), "")
        if rule == "additionalProperties":
            return [
                FieldError(
                    where,
                    f"{pointer}/{name}" if _PRINTABLE_NAME.fullmatch(name) else pointer,
                    "is unknown",
                )
                for name in error.kind.unexpected[:MAX_ERRORS]
            ]
        if rule == "required":
            return [FieldError(where, f"{pointer}/{error.kind.property}", "is missing")]
        message = _message(rule, _lookup(rules, error.schema_path))
        return [FieldError(where, pointer[:300], message)]

    return validate


def _remaining_nodes(value: Any, budget: int) -> int:
    """Return `budget` minus the number of values in `value`; negative if there are more."""
    budget -= 1
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for part in parts:
        if budget < 0:
            break
        budget = _remaining_nodes(part, budget)
    return budget


def to_json_schema(schema: dict[str, Any], *, is_request: bool) -> dict[str, Any]:
    """Return an OpenAPI 3.0 schema as JSON Schema Draft 4."""

    def translate(part: dict[str, Any]) -> dict[str, Any]:
        return to_json_schema(part, is_request=is_request)

    result: dict[str, Any] = {}
    hidden = _marked(schema, "readOnly" if is_request else "writeOnly")
    for key, value in schema.items():
        match key:
            case "properties":
                result[key] = {n: translate(part) for n, part in value.items() if n not in hidden}
            case "required":
                if required := [name for name in value if name not in hidden]:
                    result[key] = required
            case "items" | "not":
                result[key] = translate(value)
            case "additionalProperties" if isinstance(value, dict):
                result[key] = translate(value)
            case "allOf" | "anyOf" | "oneOf":
                result[key] = [translate(part) for part in value]
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


def _marked(schema: dict[str, Any], mark: str) -> set[str]:
    return {name for name, part in schema.get("properties", {}).items() if part.get(mark)}


def _lookup(schema: Any, path: list[str | int]) -> Any:
    for part in path:
        try:
            schema = schema[part]
        except (KeyError, IndexError, TypeError):
            return None
    return schema


def _pointer_token(part: str | int) -> str:
    """Return a JSON Pointer token; an unusual name, which the client chose, becomes `*`."""
    text = str(part)
    return text if _PRINTABLE_NAME.fullmatch(text) else "*"


def _message(rule: str, limit: Any) -> str:
    match rule:
        case "type":
            kinds = limit if isinstance(limit, list) else [limit]
            return f"must be of type {' or '.join(map(str, kinds))}"
        case "pattern":
            messages = {UUID: "must be a UUID", BASE64: "must be base64"}
            return messages.get(str(limit), "does not match the pattern in the contract")
        case "format":
            return f"is not a valid {limit}"
        case "enum":
            return "is not one of the values in the contract"
        case "minLength":
            return f"must have at least {limit} character{'s' * (limit != 1)}"
        case "maxLength":
            return f"must have at most {limit} character{'s' * (limit != 1)}"
        case "minimum" | "exclusiveMinimum":
            return "is below the minimum in the contract"
        case "maximum" | "exclusiveMaximum":
            return "is above the maximum in the contract"
        case "minItems" | "maxItems" | "minProperties" | "maxProperties":
            return f"violates {rule} {limit}"
    return f"violates {rule}" if rule else "does not match the contract"
