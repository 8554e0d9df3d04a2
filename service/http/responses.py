"""One answer in two ASGI messages."""

from collections.abc import Mapping

from starlette.types import Send

JSON_TYPE = "application/json"
PROBLEM_TYPE = "application/problem+json"


async def send_response(
    send: Send,
    status: int,
    body: bytes,
    headers: Mapping[str, str] | None = None,
    media_type: str | None = None,
    *,
    more_body: bool = False,
) -> None:
    """Send an answer, whole but for the end that `more_body` leaves to the caller.

    `body` is left out by the server where the method is HEAD.
    """
    lines = [
        (name.lower().encode(), value.encode("latin-1")) for name, value in (headers or {}).items()
    ]
    if media_type:
        lines.append((b"content-type", media_type.encode()))
    if status not in (204, 304):
        lines.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": lines})
    await send({"type": "http.response.body", "body": body, "more_body": more_body})
