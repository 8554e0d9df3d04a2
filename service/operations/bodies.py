"""Request bodies: bounded in bytes and time, strict JSON, validated against the contract."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import orjson
from starlette.types import Receive

from db.errors import Reason, Unavailable
from service.http.problems import MAX_BODY_BYTES, FieldError, Problem, body_too_large
from service.http.responses import Headers
from service.operations.validation import compile_schema

MAX_BODY_SECONDS = 10
MAX_DEPTH = 64
# The limit for all bodies that are arriving; beyond it, only bodies up to the second size are
# accepted.
MAX_TOTAL_BYTES, ALWAYS_ADMITTED_BYTES = 67_108_864, 16_384
DUPLICATE_NAME = "contains an object with a duplicate member name"

BodyReader = Callable[[Headers, Receive], Awaitable[tuple[Any, list[FieldError]]]]


class MalformedBody(Exception):
    """The body is not JSON that the service accepts; the message says why."""


class BodyBudget:
    """The number of bytes held by bodies that have not arrived completely."""

    held_bytes = 0


def body_reader(declared: dict[str, Any], budget: BodyBudget) -> BodyReader:
    """Return a function that reads a requestBody (without `$ref`) into (value, errors)."""
    required, content = declared.get("required", False), declared["content"]
    validators = {
        media_type: compile_schema(content[media_type]["schema"], "body", is_request=True)
        for media_type in content
    }

    async def read(headers: Headers, receive: Receive) -> tuple[Any, list[FieldError]]:
        raw = await _read(receive, budget)
        if not raw:
            return None, [FieldError("body", "", "is missing")] if required else []
        validate = validators[_media_type(headers, validators)]
        try:
            value = parse(raw)
        except MalformedBody as error:
            return None, [FieldError("body", "", str(error))]
        return value, validate(value)

    return read


def parse(raw: bytes) -> Any:
    """Return the value of strict JSON: UTF-8, no duplicate names, at most 64 levels, no NUL.

    Raises `MalformedBody`.
    """
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError:
        raise MalformedBody("is not JSON in UTF-8") from None
    names = _count_names(value, 0)
    # A colon follows each name, so there are at least as many colons as names.
    if raw.count(b":") != names:
        try:
            json.loads(raw, object_pairs_hook=_distinct)
        except (ValueError, RecursionError):
            # orjson accepted the document, so what is too large or too deep for `json` is a value
            # that a later member of the same name replaced.
            raise MalformedBody(DUPLICATE_NAME) from None
    return value


def _count_names(value: Any, depth: int) -> int:
    """Return the number of member names. Raises `MalformedBody` for NUL and for too many levels."""
    if isinstance(value, str):
        if "\0" in value:
            raise MalformedBody("contains a NUL character")
        return 0
    if not isinstance(value, dict | list):
        return 0
    if depth == MAX_DEPTH:
        raise MalformedBody(f"is nested more than {MAX_DEPTH} levels deep")
    if isinstance(value, list):
        return sum(_count_names(item, depth + 1) for item in value)
    if any("\0" in name for name in value):
        raise MalformedBody("contains a NUL character")
    return len(value) + sum(_count_names(member, depth + 1) for member in value.values())


def _distinct(members: list[tuple[str, Any]]) -> dict[str, Any]:
    distinct = dict(members)
    if len(distinct) != len(members):
        raise MalformedBody(DUPLICATE_NAME)
    return distinct


async def _read(receive: Receive, budget: BodyBudget) -> bytes:
    """Return the whole body. Raises `Problem`, `Unavailable` and `ConnectionResetError`."""
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
                budget.held_bytes += len(chunk)
                if size > MAX_BODY_BYTES:
                    raise body_too_large()
                if budget.held_bytes > MAX_TOTAL_BYTES and size > ALWAYS_ADMITTED_BYTES:
                    raise Unavailable(Reason.NO_ROOM, "too many large request bodies at once")
                chunks.append(chunk)
                if not message.get("more_body"):
                    return b"".join(chunks)
    except TimeoutError:
        detail = "The request did not arrive in time"
        raise Problem("request-timeout", detail, headers={"Connection": "close"}) from None
    finally:
        budget.held_bytes -= size


def _media_type(headers: Headers, accepted: Iterable[str]) -> str:
    """Return the media type of the body, which is case-insensitive (RFC 9110 section 8.3.1).

    Its charset can only be UTF-8. Raises `Problem`.
    """
    types = [value for name, value in headers if name == b"content-type"]
    codings = [value for name, value in headers if name == b"content-encoding"]
    if len(types) == 1 and all(coding.strip().lower() == b"identity" for coding in codings):
        media, *rest = (part.strip() for part in types[0].decode("latin-1").lower().split(";"))
        if media in accepted and all(
            part in ("", "charset=utf-8", 'charset="utf-8"') or not part.startswith("charset")
            for part in rest
        ):
            return media
    detail = f"Send {' or '.join(accepted)} in UTF-8, without Content-Encoding"
    raise Problem("unsupported-media-type", detail)
