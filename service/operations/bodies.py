"""The body of a request: bounded in bytes and time, strict JSON, checked by the contract."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import orjson
from starlette.types import Receive

from db.errors import Unavailable
from service.http.problems import FieldError, Problem
from service.operations.validation import compile_schema

MAX_BODY_BYTES = 1_048_576
MAX_BODY_SECONDS = 10
MAX_DEPTH = 64
# What bodies may hold together while they arrive; those this small are taken all the same.
MAX_TOTAL_BYTES, ALWAYS_ADMITTED_BYTES = 67_108_864, 16_384

Headers = list[tuple[bytes, bytes]]
DUPLICATE_NAME = "an object names a member twice"
TOO_LARGE = f"The body may have {MAX_BODY_BYTES} bytes"


class MalformedBody(Exception):
    """A body that is no JSON that the service takes; the text says why."""


class BodyBudget:
    """How many bytes are held by bodies that have not arrived whole."""

    held = 0


def body_reader(
    declared: dict[str, Any], room: BodyBudget
) -> Callable[[Headers, Receive], Awaitable[tuple[Any, list[FieldError]]]]:
    """Return a function that reads a requestBody without `$ref` into (value, faults)."""
    required, content = declared.get("required", False), declared["content"]
    checks = {kind: compile_schema(content[kind]["schema"], "body", sent=True) for kind in content}

    async def read(headers: Headers, receive: Receive) -> tuple[Any, list[FieldError]]:
        raw = await _read(receive, room)
        if not raw:
            return None, [FieldError("body", "", "missing")] if required else []
        check = checks[_media_type(headers, checks)]
        try:
            value = parse(raw)
        except MalformedBody as error:
            return None, [FieldError("body", "", str(error))]
        return value, check(value)

    return read


def check_content_length(lengths: Iterable[bytes]) -> None:
    """Refuse a body that says it is too large, before any of it is read (RFC 9110, 15.5.14)."""
    for length in lengths:
        if int(length) > MAX_BODY_BYTES:
            raise Problem("body-too-large", TOO_LARGE, headers={"Connection": "close"})


def parse(raw: bytes) -> Any:
    """Return the value of strict JSON: UTF-8, no duplicate names, at most 64 levels, no NUL.

    Raises `Malformed`.
    """
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError:
        raise MalformedBody("not JSON in UTF-8") from None
    names = _names(value, 0)
    # Each name is followed by a colon, so there are no more names than colons.
    if raw.count(b":") != names:
        try:
            json.loads(raw, object_pairs_hook=_distinct)
        except (ValueError, RecursionError):
            # Only what a later member of the same name hid can be too large or too deep by now.
            raise MalformedBody(DUPLICATE_NAME) from None
    return value


def _names(value: Any, depth: int) -> int:
    """Return how many names of members there are, looking at every value once."""
    if isinstance(value, str):
        if "\0" in value:
            raise MalformedBody("holds a NUL character")
        return 0
    if isinstance(value, dict):
        if depth == MAX_DEPTH:
            raise MalformedBody(f"deeper than {MAX_DEPTH} levels")
        if any("\0" in name for name in value):
            raise MalformedBody("holds a NUL character")
        return len(value) + sum(_names(member, depth + 1) for member in value.values())
    if isinstance(value, list):
        if depth == MAX_DEPTH:
            raise MalformedBody(f"deeper than {MAX_DEPTH} levels")
        return sum(_names(item, depth + 1) for item in value)
    return 0


def _distinct(members: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(members)
    if len(result) != len(members):
        raise MalformedBody(DUPLICATE_NAME)
    return result


async def _read(receive: Receive, room: BodyBudget) -> bytes:
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(MAX_BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ConnectionResetError
                chunk = message.get("body", b"")
                size += len(chunk)
                room.held += len(chunk)
                if size > MAX_BODY_BYTES:
                    raise Problem("body-too-large", TOO_LARGE, headers={"Connection": "close"})
                if room.held > MAX_TOTAL_BYTES and size > ALWAYS_ADMITTED_BYTES:
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
