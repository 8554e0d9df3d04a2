"""/openapi.json as clients get it, and Swagger UI as a person uses it."""

import asyncio
import hashlib
import json
import time
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from starlette.responses import JSONResponse
from starlette.types import Message

from openapi import contract
from service.http.docs import DocsMiddleware
from tests.platform.fix_service import Service
from tests.platform.fix_tools import Page, page

BUNDLE = "/ui/swagger-ui-bundle.js"
PAGES = ("/ui", "/ui/", "/ui/page.css", "/ui/start.js", "/ui/swagger-ui.css", BUNDLE)


def test_the_complete_contract_is_served_without_its_x_keys(anonymous: httpx.Client) -> None:
    response = anonymous.get("/openapi.json")
    assert response.headers["content-type"] == "application/json"
    served = response.json()
    assert served["servers"] == [{"url": "/"}]
    assert '"x-' not in response.text
    declared = contract.load()
    operations = [o for item in served["paths"].values() for o in item.values()]
    assert {o["operationId"] for o in operations if isinstance(o, dict)} == set(declared.operations)
    assert anonymous.get("/").json()["contract"] == f"sha256:{declared.hash}"


def test_an_unchanged_page_is_not_sent_again(anonymous: httpx.Client) -> None:
    for path in ("/openapi.json", *PAGES):
        tag = anonymous.get(path).headers["etag"]
        for known in (tag, f"W/{tag}", f'"other", W/{tag}', f'{tag},"other"', "*"):
            unchanged = anonymous.get(path, headers={"If-None-Match": known})
            assert (unchanged.status_code, unchanged.content) == (304, b""), known
        assert anonymous.get(path, headers={"If-None-Match": '"other"'}).status_code == 200


@pytest.mark.anyio
async def test_an_unchanged_page_is_not_hashed_again() -> None:
    """50 requests take less time than 20 hashes."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    app = DocsMiddleware(JSONResponse({}), contract=contract.load(), swagger_ui=True)
    scope: dict[str, Any] = {"type": "http", "method": "GET", "path": BUNDLE, "headers": []}
    scope["covenant"] = SimpleNamespace()
    await app(scope, asyncio.Queue[Message]().get, send)
    content = sent[1]["body"]
    tag = dict(sent[0]["headers"])[b"etag"]
    scope["headers"] = [(b"if-none-match", tag)]
    started = time.process_time()
    hashlib.sha256(content)
    hash_seconds = time.process_time() - started
    started = time.process_time()
    for _ in range(50):
        await app(scope, asyncio.Queue[Message]().get, send)
    assert sent[-2]["status"] == 304
    assert time.process_time() - started < 20 * hash_seconds


@pytest.mark.parametrize("path", PAGES)
def test_swagger_ui_needs_no_other_host_and_no_inline_script(
    anonymous: httpx.Client, path: str
) -> None:
    response = anonymous.get(path)
    assert response.status_code == 200
    policy = dict(
        part.split(" ", 1) for part in response.headers["content-security-policy"].split("; ")
    )
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert policy["connect-src"] == "'self'"
    if path in ("/ui", "/ui/"):
        assert response.headers["content-type"] == "text/html; charset=utf-8"
        assert "<script>" not in response.text
        assert "//" not in response.text.replace("<!doctype html>", "")
        assert "{" not in response.text


def test_swagger_ui_can_be_switched_off(limited_service: Service) -> None:
    with limited_service.http() as client:
        for path in PAGES:
            assert client.get(path).status_code == 404
        assert client.get("/openapi.json").status_code == 200


ORG_ID = 'tr[data-param-name="org_id"] input'
OPERATE = """(() => {
  const block = document.getElementById("operations-%(tag)s-%(id)s");
  if (!block) return null;
  const fill = (element, value) => {
    const kind = element.tagName === "TEXTAREA" ? HTMLTextAreaElement : HTMLInputElement;
    Object.getOwnPropertyDescriptor(kind.prototype, "value").set.call(element, value);
    element.dispatchEvent(new Event("input", { bubbles: true }));
    element.dispatchEvent(new FocusEvent("focusout", { bubbles: true }));
  };
  %(step)s
})()"""
OPEN = """if (!block.classList.contains("is-open"))
    block.querySelector(".opblock-summary-control").click();
  return !!block.querySelector("button.execute");"""
FILL = """const filled = %s;
  for (const [name, value] of Object.entries(filled)) {
    const input = block.querySelector(name);
    if (!input) return false;
    fill(input, value);
  }
  return true;"""
EXECUTE = """block.querySelector("button.execute").click(); return true;"""
RESPONSE = """const row = block.querySelector(".live-responses-table .response");
  if (!row) return null;
  const code = row.querySelector(".response-col_status").innerText.trim();
  const body = row.querySelector(".highlight-code, .microlight");
  return code && body ? [code, body.innerText.slice(body.innerText.indexOf("{"))] : null;"""


def operate(browser: Page, id: str, fields: dict[str, str]) -> tuple[str, str]:
    """Try an operation as a person does; return the status and the body that the page shows."""

    def script(step: str) -> str:
        # Swagger UI escapes the dot of an operationId with a backslash.
        return OPERATE % {"tag": id.split(".")[0], "id": id.replace(".", r"\\."), "step": step}

    browser.until(script(OPEN))
    browser.until(script(FILL % json.dumps(fields)))
    browser.run(script(EXECUTE))
    status, body = browser.until(script(RESPONSE))
    return status, body


def test_a_person_signs_in_and_creates_a_project_in_swagger_ui(service: Service) -> None:
    with page() as browser:
        browser.call(
            "Page.addScriptToEvaluateOnNewDocument",
            source="window.violations = []; addEventListener("
            "'securitypolicyviolation', e => violations.push(e.violatedDirective));",
        )
        browser.call("Page.navigate", url=f"{service.url}/ui")
        browser.until("document.querySelectorAll('.opblock').length", 30)
        count = browser.run("document.querySelectorAll('.opblock').length")
        assert count == len(contract.load().operations)

        status, body = operate(browser, "auth.guest", {})
        assert status == "201"
        org_id = json.loads(body)["org_id"]
        status, body = operate(browser, "orgs.create", {"textarea": json.dumps({"name": "Acme"})})
        assert (status, json.loads(body)["id"]) == ("201", org_id)
        status, body = operate(
            browser,
            "projects.create",
            {"textarea": json.dumps({"name": "Apollo"}), ORG_ID: org_id},
        )
        assert (status, json.loads(body)["org_id"]) == ("201", org_id)

        # An optional parameter starts empty: its example, a cursor, would be rejected.
        status, body = operate(browser, "orgs.list", {})
        assert (status, json.loads(body)["items"][0]["id"]) == ("200", org_id)

        assert browser.run("window.violations") == []
        assert browser.complaints == []
