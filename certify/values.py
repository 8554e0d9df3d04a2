"""Valid values from schemas of the contract, fresh each time, and all of one length."""

import re
import secrets
import uuid
from collections.abc import Mapping
from typing import Any

FIXED = {
    "date-time": "2026-01-02T03:04:05Z",
    "date": "2026-01-02",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "email": "someone@example.com",
    "uri": "https://example.com/",
    "byte": "YWJj",
}


class Uncoverable(Exception):
    """No request can be made from the contract; the text says of what and why."""


def absent(like: str) -> str:
    """Return an id that nothing has, made at the same time as `like` so that it sorts beside it."""
    try:
        made = uuid.UUID(like)
    except ValueError:
        return secrets.token_hex(max(1, len(like) // 2))[: len(like)]
    return f"{str(made)[:24]}{secrets.token_hex(6)}"


def sample(
    schema: Mapping[str, Any],
    ids: Mapping[str, str],
    word: str,
    name: str = "",
    example: Any = None,
) -> Any:
    """Return a value of a schema without `$ref`: ids by the name of their property, and fresh text.

    `example` is taken where no fresh text matches the schema. Raises `Uncoverable`.
    """
    schema = merged(schema)
    example = schema.get("example", example)
    if "enum" in schema:
        return schema["enum"][0]
    match schema.get("type"):
        case "object":
            given = example if isinstance(example, dict) else {}
            return {
                key: sample(part, ids, word, key, given.get(key))
                for key, part in schema.get("properties", {}).items()
                if not part.get("readOnly")
                and (key in schema.get("required", ()) or key in ids or not _is_id(part))
            }
        case "array":
            items = max(1, schema.get("minItems", 0)) if schema.get("maxItems", 1) else 0
            return [sample(schema["items"], ids, word, name) for _ in range(items)]
        case "integer" | "number":
            return schema.get("default", schema.get("minimum", 0))
        case "boolean":
            return schema.get("default", False)
        case "string" if schema.get("format") == "uuid":
            return ids.get(name) or str(uuid.uuid4())
        case "string" if schema.get("format") in FIXED:
            return FIXED[schema["format"]]
        case "string":
            return _text(schema, word, name, example)
    raise Uncoverable(f"no value can be made for `{name or 'body'}`: its schema has no known type")


def _is_id(schema: Mapping[str, Any]) -> bool:
    """Tell whether a value may name something: an optional one that names nothing is left out."""
    return merged(schema).get("format") == "uuid"


def is_text(schema: Mapping[str, Any]) -> bool:
    """Tell whether a schema lets in free text."""
    plain = merged(schema)
    return plain.get("type") == "string" and not {"enum", "format"} & plain.keys()


def merged(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema with its `allOf` folded in and the first of its alternatives taken."""
    parts = [*schema.get("allOf", ())]
    parts += [schema[key][0] for key in ("oneOf", "anyOf") if schema.get(key)]
    whole: dict[str, Any] = {}
    for part in [*(merged(part) for part in parts), schema]:
        properties = {**whole.get("properties", {}), **part.get("properties", {})}
        whole = {**whole, **part} | ({"properties": properties} if properties else {})
    return whole


def _text(schema: Mapping[str, Any], word: str, name: str, example: Any) -> str:
    most, least = schema.get("maxLength", 40), schema.get("minLength", 0)
    token = secrets.token_hex(8)
    for text in (f"{word} {token}", f"{word}-{token}", f"{word}{token}", token, token.upper()):
        text = text[-most:].ljust(least, "x")
        if re.search(schema.get("pattern", ""), text) and len(text) >= least:
            return text
    if isinstance(example, str):
        return example
    raise Uncoverable(f"no text can be made for `{name}`: give it an example")
