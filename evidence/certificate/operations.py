"""What the certificate reads from the operations of a contract (pure functions)."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from evidence.certificate.values import Uncoverable, merged
from openapi.contract import Contract, Operation

_PATH_PARAMETER = re.compile(r"\{([^{}]+)\}")


def path_ids(path: str) -> tuple[str, ...]:
    """Return the names of the parameters of a path, from left to right."""
    return tuple(_PATH_PARAMETER.findall(path))


def body_schema(operation: Operation) -> dict[str, Any] | None:
    """Return the merged schema of the JSON body, with the media type's example, if it has one."""
    media = (operation.body or {}).get("content", {}).get("application/json")
    if media is None:
        return None
    return {key: media[key] for key in ("example",) if key in media} | merged(media["schema"])


def header_parameters(operation: Operation) -> list[dict[str, Any]]:
    return [p for p in operation.parameters if p["in"] == "header"]


def query_schemas(operation: Operation) -> dict[str, dict[str, Any]]:
    """Return {name: schema} of the query parameters."""
    return {p["name"]: p["schema"] for p in operation.parameters if p["in"] == "query"}


def success_codes(operation: Operation) -> set[int]:
    return {int(code) for code in operation.responses if re.fullmatch("2[0-9][0-9]", code)}


def success_responses(operation: Operation) -> list[Mapping[str, Any]]:
    """Return the declared 2xx responses."""
    return [r for code, r in operation.responses.items() if code.startswith("2")]


def json_schema(response: Mapping[str, Any]) -> dict[str, Any]:
    """Return the merged schema of a JSON response, empty for one without JSON."""
    content = response.get("content", {})
    return merged(content["application/json"]["schema"]) if "application/json" in content else {}


def response_properties(operation: Operation) -> dict[str, Any]:
    """Return {name: schema} of the properties of all 2xx responses."""
    schemas = [json_schema(response) for response in success_responses(operation)]
    return {name: part for schema in schemas for name, part in schema.get("properties", {}).items()}


def returns_text(operation: Operation) -> bool:
    """Return whether a 2xx response can contain an id or text: counts identify no tenant."""
    return any(_contains_text(json_schema(r)) for r in success_responses(operation))


def find_sign_in(contract: Contract) -> Operation:
    """Return the public operation that issues a token. Raises `Uncoverable`."""
    for operation in contract.operations.values():
        is_public_post = not operation.security and operation.method == "post"
        issues_token = "access_token" in response_properties(operation)
        if is_public_post and operation.body is None and issues_token:
            return operation
    raise Uncoverable("no public operation without a body responds with an access_token")


def id_pointer(operation: Operation, parameter: str) -> str:
    """Return the JSON Pointer (RFC 6901) to the id of a created resource.

    That is the pointer of the response's link for `parameter`, by default `/id`.
    """
    prefix = "$response.body#"
    for response in success_responses(operation):
        for link in response.get("links", {}).values():
            expression = link.get("parameters", {}).get(parameter, "")
            if isinstance(expression, str) and expression.startswith(prefix):
                return expression.removeprefix(prefix)
    return "/id"


def uuid_names(properties: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of the properties whose values are UUIDs."""
    return (name for name, part in properties.items() if merged(part).get("format") == "uuid")


def _contains_text(schema: Mapping[str, Any]) -> bool:
    schema = merged(schema)
    children = [*schema.get("properties", {}).values(), schema.get("items")]
    children.append(schema.get("additionalProperties"))
    is_free_text = schema.get("type") == "string" and "enum" not in schema
    return is_free_text or any(_contains_text(part) for part in children if isinstance(part, dict))
