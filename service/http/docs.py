"""`/openapi.json`, and Swagger UI at `/ui`: no external resources, no inline script."""

import hashlib
import importlib.util
from functools import cache
from pathlib import Path

import orjson
from starlette.types import ASGIApp, Receive, Scope, Send

from openapi.contract import Contract, public_document
from service.http import problems
from service.http.problems import Problem
from service.http.responses import JSON_TYPE, send_response

# Swagger UI sets styles on elements and draws icons: that needs the two exceptions.
CONTENT_SECURITY_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    b"img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; "
    b"form-action 'none'"
)
PAGE = b"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>%s</title>
<link rel="stylesheet" href="/ui/swagger-ui.css">
<link rel="icon" href="data:,">
<div id="ui"></div>
<script src="/ui/swagger-ui-bundle.js"></script>
<script src="/ui/start.js"></script>
</html>
"""
# The token in a response is used for the operations that are tried next.
START = b"""const ui = SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#ui",
  deepLinking: true,
  displayRequestDuration: true,
  persistAuthorization: true,
  tryItOutEnabled: true,
  validatorUrl: null,
  defaultModelsExpandDepth: 0,
  responseInterceptor: (response) => {
    const token = response.ok && response.body && response.body.access_token;
    if (token) ui.preauthorizeApiKey("bearer", token);
    return response;
  },
});
"""


class DocsMiddleware:
    """Serves /openapi.json and, unless switched off, /ui; passes everything else on."""

    def __init__(self, app: ASGIApp, *, contract: Contract, swagger_ui: bool) -> None:
        self._app = app
        document = orjson.dumps(public_document(contract))
        self._pages: dict[str, tuple[str, bytes]] = {"/openapi.json": (JSON_TYPE, document)}
        if swagger_ui:
            page = PAGE % contract.title.replace("<", "&lt;").encode()
            self._pages |= {
                "/ui": ("text/html; charset=utf-8", page),
                "/ui/start.js": ("text/javascript; charset=utf-8", START),
                "/ui/swagger-ui.css": ("text/css; charset=utf-8", b""),
                "/ui/swagger-ui-bundle.js": ("text/javascript; charset=utf-8", b""),
            }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path")
        if scope["type"] != "http" or path not in self._pages:
            await self._app(scope, receive, send)
            return
        allow = {"Allow": "GET, HEAD, OPTIONS"}
        if scope["method"] == "OPTIONS":
            await send_response(send, 204, b"", allow)
            return
        if scope["method"] != "GET":
            raise problems.method_not_allowed(allow["Allow"])
        media_type, content = self._pages[path]
        content = content or _asset(path.removeprefix("/ui/"))
        tag = _tag(content)
        headers = {"ETag": tag, "Cache-Control": "no-cache"}
        scope["covenant"].content_security_policy = CONTENT_SECURITY_POLICY
        if any(n == b"if-none-match" and v.decode("latin-1") == tag for n, v in scope["headers"]):
            await send_response(send, 304, b"", headers)
            return
        await send_response(send, 200, content, headers, media_type)


@cache
def _tag(content: bytes) -> str:
    """Return the ETag of a page; cached, because hashing a megabyte per request is a risk."""
    return f'"{hashlib.sha256(content).hexdigest()[:32]}"'


@cache
def _asset(name: str) -> bytes:
    """Return a file of Swagger UI from the installed package, which is never imported."""
    spec = importlib.util.find_spec("swagger_ui")
    if spec is None or spec.origin is None:
        raise Problem("not-found", "Swagger UI is not installed")
    return (Path(spec.origin).parent / "static" / name).read_bytes()
