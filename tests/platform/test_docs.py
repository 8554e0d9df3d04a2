"""The contract as clients are served it, and Swagger UI as a person uses it."""

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

PAGES = ("/ui", "/ui/start.js", "/ui/swagger-ui.css", "/ui/swagger-ui-bundle.js")


def test_trap_12_the_contract_is_served_whole_without_its_x_keys(nobody: httpx.Client) -> None:
    response = nobody.get("/openapi.json")
    assert response.headers["content-type"] == "application/json"
    served = response.json()
    assert served["servers"] == [{"url": "/"}]
    assert '"x-' not in response.text
    declared = contract.load()
    assert {o["operationId"] for item in served["paths"].values() for o in item.values()
            if isinstance(o, dict)} == set(declared.operations)  # fmt: skip
    assert nobody.get("/").json()["contract"] == f"sha256:{declared.hash}"


def test_what_is_served_is_not_sent_twice(nobody: httpx.Client) -> None:
    for path in ("/openapi.json", *PAGES):
        tag = nobody.get(path).headers["etag"]
        again = nobody.get(path, headers={"If-None-Match": tag})
        assert (again.status_code, again.content) == (304, b"")
        assert nobody.get(path, headers={"If-None-Match": '"other"'}).status_code == 200


@pytest.mark.anyio
async def test_what_was_not_changed_is_not_hashed_again() -> None:
    """By what one hash costs here."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    app = DocsMiddleware(JSONResponse({}), contract=contract.load(), swagger_ui=True)
    scope: dict[str, Any] = {"type": "http", "method": "GET", "path": PAGES[-1], "headers": []}
    scope["covenant"] = SimpleNamespace()
    await app(scope, asyncio.Queue[Message]().get, send)
    content = sent[1]["body"]
    tag = dict(sent[0]["headers"])[b"etag"]
    scope["headers"] = [(b"if-none-match", tag)]
    started = time.process_time()
    hashlib.sha256(content)
    once = time.process_time()
    for _ in range(50):
        await app(scope, asyncio.Queue[Message]().get, send)
    assert sent[-2]["status"] == 304
    assert time.process_time() - once < 20 * (once - started)


@pytest.mark.parametrize("path", PAGES)
def test_swagger_ui_needs_no_network_and_no_inline_script(nobody: httpx.Client, path: str) -> None:
    response = nobody.get(path)
    assert response.status_code == 200
    policy = dict(
        part.split(" ", 1) for part in response.headers["content-security-policy"].split("; ")
    )
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert policy["connect-src"] == "'self'"
    if path == "/ui":
        assert "<script>" not in response.text
        assert "//" not in response.text.replace("<!doctype html>", "")
        assert "{{" not in response.text


def test_swagger_ui_can_be_switched_off(strict: Service) -> None:
    with strict.http() as client:
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
ANSWER = """const row = block.querySelector(".live-responses-table .response");
  if (!row) return null;
  const code = row.querySelector(".response-col_status").innerText.trim();
  const body = row.querySelector(".highlight-code, .microlight");
  return code && body ? [code, body.innerText.slice(body.innerText.indexOf("{"))] : null;"""


def operate(browser: Page, id: str, fields: dict[str, str]) -> tuple[str, str]:
    """Try an operation as a person does; returns the status and the body that the page shows."""

    def script(step: str) -> str:
        # Swagger UI writes the dot of an operationId with a backslash.
        return OPERATE % {"tag": id.split(".")[0], "id": id.replace(".", r"\\."), "step": step}

    browser.until(script(OPEN))
    browser.until(script(FILL % json.dumps(fields)))
    browser.run(script(EXECUTE))
    code, body = browser.until(script(ANSWER))
    return code, body


def test_a_person_signs_in_and_creates_a_project_in_swagger_ui(service: Service) -> None:
    with page() as browser:
        browser.call(
            "Page.addScriptToEvaluateOnNewDocument",
            source="window.refused = [];"
            "addEventListener('securitypolicyviolation', e => refused.push(e.violatedDirective));",
        )
        browser.call("Page.navigate", url=f"{service.url}/ui")
        browser.until("document.querySelectorAll('.opblock').length", 30)
        shown = browser.run("document.querySelectorAll('.opblock').length")
        assert shown == len(contract.load().operations)

        code, body = operate(browser, "auth.guest", {})
        assert code == "201"
        org_id = json.loads(body)["org_id"]
        code, body = operate(browser, "orgs.create", {"textarea": json.dumps({"name": "Acme"})})
        assert (code, json.loads(body)["id"]) == ("201", org_id)
        code, body = operate(
            browser,
            "projects.create",
            {"textarea": json.dumps({"name": "Apollo"}), ORG_ID: org_id},
        )
        assert (code, json.loads(body)["org_id"]) == ("201", org_id)

        assert browser.run("window.refused") == []
        assert browser.complaints == []
