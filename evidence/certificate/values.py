"""Valid values for schemas of the contract: different each time, but of the same length."""

import base64
import math
import re
import secrets
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, date, datetime
from functools import cache
from ipaddress import IPv4Address, IPv6Address
from itertools import cycle
from typing import Any

from hypothesis import HealthCheck, Verbosity, given, settings
from hypothesis.errors import Unsatisfiable
from hypothesis.strategies import from_regex

DISTINCT_VALUES = 10**8
# Text in a format from a number below DISTINCT_VALUES, so that no two rows have the same value.
FORMATS: dict[str, Callable[[int], str]] = {
    "date-time": lambda n: f"{datetime.fromtimestamp(10**9 + n, UTC):%Y-%m-%dT%H:%M:%SZ}",
    "date": lambda n: f"{date.fromordinal(700_000 + n % 36_500)}",
    "ipv4": lambda n: str(IPv4Address((10 << 24) + n % 2**24)),
    "ipv6": lambda n: str(IPv6Address((0x20010DB8 << 96) + n)),
    "email": lambda n: f"someone-{n:08}@example.com",
    "uri": lambda n: f"https://example.com/{n:08}",
    "byte": lambda n: base64.b64encode(n.to_bytes(6)).decode(),
}
# Dates do not identify a tenant: there are so few that two tenants may have the same one.
DATE = re.compile(r"\d{4}-\d\d-\d\d")


class Uncoverable(Exception):
    """The certificate cannot derive a request from the contract; the message says why."""


def nonexistent_id(template: str) -> str:
    """Return an id that no row has. A UUID keeps the template's time, so it sorts next to it."""
    try:
        parsed = uuid.UUID(template)
    except ValueError:
        return secrets.token_hex(max(1, len(template) // 2))[: len(template)]
    return f"{str(parsed)[:24]}{secrets.token_hex(6)}"


def sample(
    schema: Mapping[str, Any],
    ids: Mapping[str, str],
    prefix: str,
    name: str = "",
    example: Any = None,
) -> Any:
    """Return a valid value for a schema without `$ref`.

    A UUID property takes the value of its name in `ids`. Text starts with `prefix` where the
    schema allows it. `example` is the fallback if no generated text matches. Raises `Uncoverable`.
    """
    schema = merged(schema)
    example = schema.get("example", example)
    if "enum" in schema:
        return secrets.choice(schema["enum"])
    match schema.get("type"):
        case "object":
            examples = example if isinstance(example, dict) else {}
            return {
                key: sample(part, ids, prefix, key, examples.get(key))
                for key, part in schema.get("properties", {}).items()
                if not part.get("readOnly")
                and (key in schema.get("required", ()) or key in ids or not _is_uuid(part))
            }
        case "array":
            length = max(1, schema.get("minItems", 0)) if schema.get("maxItems", 1) else 0
            return [sample(schema["items"], ids, prefix, name) for _ in range(length)]
        case "integer" | "number":
            return _number(schema)
        case "boolean":
            return schema.get("default", False)
        case "string" if schema.get("format") == "uuid":
            return ids.get(name) or str(uuid.uuid4())
        case "string" if schema.get("format") in FORMATS:
            return FORMATS[schema["format"]](secrets.randbelow(DISTINCT_VALUES))
        case "string":
            return _text(schema, prefix, name, example)
    raise Uncoverable(f"cannot generate a value for `{name or 'body'}`: its schema has no type")


def sample_header(parameter: Mapping[str, Any]) -> str:
    """Return a value for a header parameter, new each time if it is text. Raises `Uncoverable`."""
    name, example = parameter["name"], parameter.get("example")
    return str(sample(parameter["schema"], {}, "Key", name, example))


def is_free_text(schema: Mapping[str, Any]) -> bool:
    plain = merged(schema)
    return plain.get("type") == "string" and not {"enum", "format"} & plain.keys()


def leaves(value: Any) -> Iterator[Any]:
    """Yield the scalars of a JSON value."""
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from leaves(part)
    else:
        yield value


def enum_values(schema: Mapping[str, Any]) -> set[str]:
    """Return the texts of all enums in a schema: every tenant may use them."""
    schema = merged(schema)
    parts = [*schema.get("properties", {}).values(), schema.get("items", {})]
    nested = {text for part in parts for text in enum_values(part)} if any(parts) else set()
    return nested | {text for text in schema.get("enum", ()) if isinstance(text, str)}


def merged(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema with `allOf` merged in, and the first alternative of `oneOf` and `anyOf`."""
    parts = [*schema.get("allOf", ())]
    parts += [schema[key][0] for key in ("oneOf", "anyOf") if schema.get(key)]
    result: dict[str, Any] = {}
    for part in [*(merged(part) for part in parts), schema]:
        properties = {**result.get("properties", {}), **part.get("properties", {})}
        result = {**result, **part} | ({"properties": properties} if properties else {})
    return result


def _is_uuid(schema: Mapping[str, Any]) -> bool:
    """Return whether a value may reference a row; an optional reference to none is left out."""
    return merged(schema).get("format") == "uuid"


def _number(schema: Mapping[str, Any]) -> int | float:
    """Return a number within the schema's bounds, of at most nine digits if they allow it."""
    low: float = schema.get("minimum", -DISTINCT_VALUES)
    high: float = schema.get("maximum", DISTINCT_VALUES)
    minimum = math.ceil(max(low, min(-DISTINCT_VALUES, high)))
    minimum += bool(schema.get("exclusiveMinimum"))
    maximum = math.floor(min(high, max(DISTINCT_VALUES, low)))
    maximum -= bool(schema.get("exclusiveMaximum"))
    if minimum > maximum:
        return (low + high) / 2
    number = minimum + secrets.randbelow(maximum - minimum + 1)
    multiple: float = number - number % schema.get("multipleOf", 1)
    return number if multiple < minimum else multiple


def _text(schema: Mapping[str, Any], prefix: str, name: str, example: Any) -> str:
    maximum, minimum = schema.get("maxLength", 40), schema.get("minLength", 0)
    pattern = schema.get("pattern", "")
    random = secrets.token_hex(8)
    candidates = (f"{prefix} {random}", f"{prefix}-{random}", f"{prefix}{random}", random)
    for text in (*candidates, random.upper()):
        text = text[-maximum:].ljust(minimum, "x")
        if re.search(pattern, text) and len(text) >= minimum:
            return text
    if text := next(_matching_texts(pattern, minimum, maximum), ""):
        return text
    if isinstance(example, str):
        return example
    raise Uncoverable(f"cannot generate a text for `{name}`: add an example to its schema")


@cache
def _matching_texts(pattern: str, minimum: int, maximum: int) -> Iterator[str]:
    """Yield texts that match a pattern: each once, then again from the first.

    Where `CI` is set, Hypothesis generates the same examples each time: right for a test, wrong
    for rows. Hence `derandomize=False`.
    """
    texts: dict[str, None] = {}  # a set that keeps the order

    @settings(
        derandomize=False,
        database=None,
        deadline=None,
        verbosity=Verbosity.quiet,
        suppress_health_check=list(HealthCheck),
    )
    @given(from_regex(pattern, fullmatch=True))
    def keep(text: str) -> None:
        if minimum <= len(text) <= maximum:
            texts.setdefault(text)

    yielded = -1
    with suppress(Unsatisfiable):  # no text matches
        while len(texts) > yielded:
            yielded = len(texts)
            keep()
            yield from list(texts)[yielded:]
    yield from cycle(texts)
