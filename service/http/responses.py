"""Sends a response as two ASGI messages."""

from collections.abc import Mapping

from starlette.types import Send

JSON_TYPE = "application/json"
PROBLEM_TYPE = "application/problem+json"
NO_BODY_STATUSES = (204, 304)

Headers = list[tuple[bytes, bytes]]


async def send_response(
    send: Send,
    status: int,
    body: bytes,
    headers: Mapping[str, str] | None = None,
    media_type: str | None = None,
    *,
    more_body: bool = False,
) -> None:
    """Send a response; with `more_body`, the caller sends the last message.

    The server omits `body` for HEAD.
    """
    fields = [
        (name.lower().encode(), value.encode("latin-1")) for name, value in (headers or {}).items()
    ]
    if media_type:
        fields.append((b"content-type", media_type.encode()))
    if status not in NO_BODY_STATUSES:
        fields.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body, "more_body": more_body})
