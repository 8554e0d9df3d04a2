"""The body of a request: bounded in bytes and time, strict JSON, checked by the contract."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import orjson
from starlette.types import Receive

from db.errors import Unavailable
from service.http.problems import Fault, Problem
from service.operations.validation import checker

MOST_BYTES = 1_048_576
MOST_SECONDS = 10
MOST_DEPTH = 64
# What bodies may hold together while they arrive; those this small are taken all the same.
MOST_TOGETHER, SMALL = 67_108_864, 16_384

Headers = list[tuple[bytes, bytes]]
TWICE = "an object names a member twice"
TOO_LARGE = f"The body may have {MOST_BYTES} bytes"


class Malformed(Exception):
    """A body that is no JSON that the service takes; the text says why."""


class Room:
    """How many bytes are held by bodies that have not arrived whole."""

    held = 0


def reader(
    declared: dict[str, Any], room: Room
) -> Callable[[Headers, Receive], Awaitable[tuple[Any, list[Fault]]]]:
    """Return a function that reads a requestBody without `$ref` into (value, faults)."""
    required, content = declared.get("required", False), declared["content"]
    checks = {kind: checker(content[kind]["schema"], "body", sent=True) for kind in content}

    async def read(headers: Headers, receive: Receive) -> tuple[Any, list[Fault]]:
        raw = await _bytes(receive, room)
        if not raw:
            return None, [Fault("body", "", "missing")] if required else []
        check = checks[_media_type(headers, checks)]
        try:
            value = parse(raw)
        except Malformed as error:
            return None, [Fault("body", "", str(error))]
        return value, check(value)

    return read


def demand_length(lengths: Iterable[bytes]) -> None:
    """Refuse a body that says it is too large, before any of it is read (RFC 9110, 15.5.14)."""
    for length in lengths:
        if int(length) > MOST_BYTES:
            raise Problem("body-too-large", TOO_LARGE, headers={"Connection": "close"})


def parse(raw: bytes) -> Any:
    """Return the value of strict JSON: UTF-8, no duplicate names, at most 64 levels, no NUL.

    Raises `Malformed`.
    """
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError:
        raise Malformed("not JSON in UTF-8") from None
    names = _names(value, 0)
    # Each name is followed by a colon, so there are no more names than colons.
    if raw.count(b":") != names:
        try:
            json.loads(raw, object_pairs_hook=_distinct)
        except (ValueError, RecursionError):
            # Only what a later member of the same name hid can be too large or too deep by now.
            raise Malformed(TWICE) from None
    return value


def _names(value: Any, depth: int) -> int:
    """Return how many names of members there are, looking at every value once."""
    if isinstance(value, str):
        if "\0" in value:
            raise Malformed("holds a NUL character")
        return 0
    if isinstance(value, dict):
        if depth == MOST_DEPTH:
            raise Malformed(f"deeper than {MOST_DEPTH} levels")
        if any("\0" in name for name in value):
            raise Malformed("holds a NUL character")
        return len(value) + sum(_names(member, depth + 1) for member in value.values())
    if isinstance(value, list):
        if depth == MOST_DEPTH:
            raise Malformed(f"deeper than {MOST_DEPTH} levels")
        return sum(_names(item, depth + 1) for item in value)
    return 0


def _distinct(members: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(members)
    if len(result) != len(members):
        raise Malformed(TWICE)
    return result


async def _bytes(receive: Receive, room: Room) -> bytes:
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(MOST_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ConnectionResetError
                chunk = message.get("body", b"")
                size += len(chunk)
                room.held += len(chunk)
                if size > MOST_BYTES:
                    raise Problem("body-too-large", TOO_LARGE, headers={"Connection": "close"})
                if room.held > MOST_TOGETHER and size > SMALL:
                    raise Unavailable("too many large bodies at once")
                chunks.append(chunk)
                if not message.get("more_body"):
                    return b"".join(chunks)
    except TimeoutError:
        late = "The request did not arrive in time"
        raise Problem("request-timeout", late, headers={"Connection": "close"}) from None
    finally:
        room.held -= size


def _media_type(headers: Headers, known: Iterable[str]) -> str:
    """It may be spelt in any case (RFC 9110, 8.3.1); its charset can only be UTF-8."""
    types = [value for name, value in headers if name == b"content-type"]
    codings = [value for name, value in headers if name == b"content-encoding"]
    if len(types) == 1 and all(coding.strip().lower() == b"identity" for coding in codings):
        media, *rest = (part.strip() for part in types[0].decode("latin-1").lower().split(";"))
        if media in known and all(
            part in ("", "charset=utf-8", 'charset="utf-8"') or not part.startswith("charset")
            for part in rest
        ):
            return media
    wanted = f"Send {' or '.join(known)} in UTF-8, not compressed"
    raise Problem("unsupported-media-type", wanted)
