"""`/openapi.json`, and Swagger UI at `/ui`: no external resources, no inline script."""

import hashlib
import html
import importlib.util
import re
from functools import cache
from pathlib import Path

import orjson
from starlette.types import ASGIApp, Receive, Scope, Send

from openapi.contract import Contract, public_document
from service.http import problems
from service.http.problems import Problem
from service.http.responses import JSON_TYPE, send_response

# Swagger UI needs two exceptions: inline styles, and its icons are `data:` URLs.
CONTENT_SECURITY_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    b"img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; "
    b"form-action 'none'"
)
PAGES = Path(__file__).parent / "swagger_ui"
# The package that contains the files of Swagger UI. It is never imported.
PACKAGE = "flask_openapi_swagger"
HTML, CSS, JAVASCRIPT = (f"text/{kind}; charset=utf-8" for kind in ("html", "css", "javascript"))
ALLOW = "GET, HEAD, OPTIONS"


class DocsMiddleware:
    """Serves /openapi.json and, unless switched off, /ui; passes everything else on."""

    def __init__(self, app: ASGIApp, *, contract: Contract, swagger_ui: bool) -> None:
        self._app = app
        document = orjson.dumps(public_document(contract))
        self._pages: dict[str, tuple[str, bytes]] = {"/openapi.json": (JSON_TYPE, document)}
        if swagger_ui:
            page = (PAGES / "index.html").read_text("utf-8")
            content = page.format(title=html.escape(contract.title)).encode()
            self._pages |= {
                "/ui": (HTML, content),
                "/ui/": (HTML, content),
                "/ui/page.css": (CSS, (PAGES / "page.css").read_bytes()),
                "/ui/start.js": (JAVASCRIPT, (PAGES / "start.js").read_bytes()),
                "/ui/swagger-ui.css": (CSS, b""),
                "/ui/swagger-ui-bundle.js": (JAVASCRIPT, b""),
            }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path")
        if scope["type"] != "http" or path not in self._pages:
            await self._app(scope, receive, send)
            return
        if scope["method"] == "OPTIONS":
            await send_response(send, 204, b"", {"Allow": ALLOW})
            return
        if scope["method"] != "GET":
            raise problems.method_not_allowed(ALLOW)
        media_type, content = self._pages[path]
        content = content or _package_file(path.removeprefix("/ui/"))
        etag = _etag(content)
        headers = {"ETag": etag, "Cache-Control": "no-cache"}
        scope["covenant"].content_security_policy = CONTENT_SECURITY_POLICY
        if any(n == b"if-none-match" and _matches(v, etag) for n, v in scope["headers"]):
            await send_response(send, 304, b"", headers)
            return
        await send_response(send, 200, content, headers, media_type)


def _matches(header: bytes, etag: str) -> bool:
    """Return whether If-None-Match lists the tag, weak or not (RFC 9110 section 13.1.2)."""
    value = header.decode("latin-1").strip()
    return value == "*" or etag in re.findall(r'"[^"]*"', value)


@cache
def _etag(content: bytes) -> str:
    """Return the ETag of a page; cached, because hashing a megabyte per request costs too much."""
    return f'"{hashlib.sha256(content).hexdigest()[:32]}"'


@cache
def _package_file(name: str) -> bytes:
    """Return a file of Swagger UI from the installed package."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise Problem("not-found", "Swagger UI is not installed")
    folder = Path(spec.origin).parent / "templates" / "swagger"
    return (folder / name.rpartition(".")[2] / name).read_bytes()
