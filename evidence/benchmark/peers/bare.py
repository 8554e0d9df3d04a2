"""The least an ASGI application can do: a constant response."""

from typing import Any

HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"18")]


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        await send({"type": "http.response.body", "body": b'{"status":"alive"}'})
