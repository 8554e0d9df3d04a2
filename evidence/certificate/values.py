"""Valid values from schemas of the contract, fresh each time, and all of one length."""

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

TRIES = 20
FRESH = 10**8
# Texts of a format from a number below FRESH, so that no two rows have the same.
FORMATS: dict[str, Callable[[int], str]] = {
    "date-time": lambda n: f"{datetime.fromtimestamp(10**9 + n, UTC):%Y-%m-%dT%H:%M:%SZ}",
    "date": lambda n: f"{date.fromordinal(700_000 + n % 36_500)}",
    "ipv4": lambda n: str(IPv4Address((10 << 24) + n % 2**24)),
    "ipv6": lambda n: str(IPv6Address((0x20010DB8 << 96) + n)),
    "email": lambda n: f"someone-{n:08}@example.com",
    "uri": lambda n: f"https://example.com/{n:08}",
    "byte": lambda n: base64.b64encode(n.to_bytes(6)).decode(),
}
DATE = re.compile(r"\d{4}-\d\d-\d\d")  # there are few, and two tenants may have the same


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
        return secrets.choice(schema["enum"])
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
            return _number(schema)
        case "boolean":
            return schema.get("default", False)
        case "string" if schema.get("format") == "uuid":
            return ids.get(name) or str(uuid.uuid4())
        case "string" if schema.get("format") in FORMATS:
            return FORMATS[schema["format"]](secrets.randbelow(FRESH))
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


def leaves(value: Any) -> Iterator[Any]:
    """Yield what a JSON value holds that is no object and no array."""
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from leaves(part)
    else:
        yield value


def words(schema: Mapping[str, Any]) -> set[str]:
    """Return the values of enums, which are everybody's."""
    whole = merged(schema)
    parts = [*whole.get("properties", {}).values(), whole.get("items", {})]
    below = {word for part in parts for word in words(part)} if any(parts) else set()
    return below | {word for word in whole.get("enum", ()) if isinstance(word, str)}


def merged(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema with its `allOf` folded in and the first of its alternatives taken."""
    parts = [*schema.get("allOf", ())]
    parts += [schema[key][0] for key in ("oneOf", "anyOf") if schema.get(key)]
    whole: dict[str, Any] = {}
    for part in [*(merged(part) for part in parts), schema]:
        properties = {**whole.get("properties", {}), **part.get("properties", {})}
        whole = {**whole, **part} | ({"properties": properties} if properties else {})
    return whole


def _number(schema: Mapping[str, Any]) -> int | float:
    """Return a number within its bounds, of at most nine digits where they allow it."""
    low: float = schema.get("minimum", -FRESH)
    high: float = schema.get("maximum", FRESH)
    least = math.ceil(max(low, min(-FRESH, high))) + bool(schema.get("exclusiveMinimum"))
    most = math.floor(min(high, max(FRESH, low))) - bool(schema.get("exclusiveMaximum"))
    if least > most:
        return (low + high) / 2
    number = least + secrets.randbelow(most - least + 1)
    whole: float = number - number % schema.get("multipleOf", 1)
    return number if whole < least else whole


def _text(schema: Mapping[str, Any], word: str, name: str, example: Any) -> str:
    most, least = schema.get("maxLength", 40), schema.get("minLength", 0)
    token = secrets.token_hex(8)
    for text in (f"{word} {token}", f"{word}-{token}", f"{word}{token}", token, token.upper()):
        text = text[-most:].ljust(least, "x")
        if re.search(schema.get("pattern", ""), text) and len(text) >= least:
            return text
    if text := next(_matching(schema.get("pattern", ""), least, most), ""):
        return text
    if isinstance(example, str):
        return example
    raise Uncoverable(f"no text can be made for `{name}`: give it an example")


@cache
def _matching(pattern: str, least: int, most: int) -> Iterator[str]:
    """Yield texts that a pattern lets in: each once, then all again when no more are found.

    Hypothesis would make the same each time where `CI` is set: right for a test, not for rows.
    """
    found: dict[str, None] = {}  # in the order of their making

    @settings(
        derandomize=False,
        database=None,
        deadline=None,
        verbosity=Verbosity.quiet,
        suppress_health_check=list(HealthCheck),
    )
    @given(from_regex(pattern, fullmatch=True))
    def keep(text: str) -> None:
        if least <= len(text) <= most:
            found.setdefault(text)

    old = -1
    with suppress(Unsatisfiable):  # nothing matches
        while len(found) > old:
            old = len(found)
            keep()
            yield from list(found)[old:]
    yield from cycle(found)
