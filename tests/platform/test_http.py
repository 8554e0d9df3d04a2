"""The manners of HTTP: methods, headers, origins, limits; for every operation of the contract."""

import time
from pathlib import Path

import httpx
import pytest

from openapi import contract
from tests.platform.fix_postgres import Database
from tests.platform.fix_raw import raw
from tests.platform.fix_service import Service, Tenant, serving

CONTRACT = contract.load()
OPERATIONS = list(CONTRACT.operations.values())
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY")
DOCS = {path: {"GET", "HEAD", "OPTIONS"} for path in ("/openapi.json", "/ui", "/ui/start.js")}
ID = "019ab2f4-7c1e-7a52-9f3d-2b6c8e5d4a10"


def filled(path: str, org: str = ID, project: str = ID) -> str:
    return path.replace("{org_id}", org).replace("{project_id}", project)


def allowed() -> dict[str, set[str]]:
    """The methods of every path, as the contract has them."""
    paths: dict[str, set[str]] = dict(DOCS)
    for operation in OPERATIONS:
        methods = paths.setdefault(operation.path, {"OPTIONS"})
        methods |= {operation.method.upper()} | ({"HEAD"} if operation.method == "get" else set())
    return paths


@pytest.mark.parametrize("path", sorted(allowed()))
def test_trap_11_a_method_that_a_path_has_not_is_answered_with_those_that_it_has(
    someone: Tenant, nobody: httpx.Client, path: str
) -> None:
    methods = allowed()[path]
    for client in (someone.http, nobody):
        for method in METHODS:
            response = client.request(method, filled(path))
            refused = method not in methods
            assert (response.status_code == 405) is refused, method
            if refused or method == "OPTIONS":
                assert set(response.headers["allow"].split(", ")) == methods
            if method == "OPTIONS":
                assert response.status_code == 204
                assert response.content == b""


@pytest.mark.parametrize("operation", [o for o in OPERATIONS if o.security], ids=lambda o: o.id)
def test_trap_11_a_secured_operation_says_how_to_authenticate(
    nobody: httpx.Client, operation: contract.Operation
) -> None:
    path = filled(operation.path)
    missing = nobody.request(operation.method, path)
    assert (missing.status_code, missing.headers["www-authenticate"]) == (401, "Bearer")
    for value in ("Bearer x", "Bearer", "Basic eDp5", "", "Bearer\tx", "Bearer\xa0x"):
        header = {b"Authorization": value.encode("latin-1")}
        wrong = nobody.request(operation.method, path, headers=header)
        assert wrong.status_code == 401
        assert wrong.headers["www-authenticate"] == 'Bearer error="invalid_token"'


def test_trap_5_two_tokens_are_no_token(someone: Tenant, nobody: httpx.Client) -> None:
    good = f"Bearer {someone.token}"
    for values in ((good, good), (good, "Bearer x"), ("Bearer x", good)):
        headers = [("Authorization", value) for value in values]
        assert nobody.get("/auth/me", headers=headers).status_code == 401


def test_trap_1_no_operation_is_open_but_those_that_the_contract_opens(
    nobody: httpx.Client,
) -> None:
    open_ = {
        operation.id
        for operation in OPERATIONS
        if nobody.request(operation.method, filled(operation.path)).status_code != 401
    }
    assert open_ == {o.id for o in OPERATIONS if not o.security}
    assert open_ == {"system.index", "system.health", "system.ready", "auth.guest"}


@pytest.mark.parametrize(
    "operation", [o for o in OPERATIONS if o.method == "get"], ids=lambda o: o.id
)
def test_head_is_get_without_the_body(acme: Tenant, operation: contract.Operation) -> None:
    path = filled(operation.path, acme.org, acme.project("Apollo")["id"])
    for asked, expected in ((path, 200), (f"{path}?unknown=1", 400)):
        got, head = acme.http.get(asked), acme.http.head(asked)
        assert got.status_code == head.status_code == expected
        assert head.content == b""
        assert _same(got) == _same(head)
        assert (int(got.headers["content-length"]) == len(got.content)) or expected == 400


@pytest.mark.parametrize("path", sorted({filled(p) for p in allowed()} - {"/"}))
def test_trap_11_a_trailing_slash_leads_nowhere(someone: Tenant, path: str) -> None:
    for method in ("GET", "POST"):
        headers = {"Host": "elsewhere.example", "X-Forwarded-Host": "elsewhere.example"}
        response = someone.http.request(method, f"{path}/", headers=headers)
        assert response.status_code == 404
        assert "location" not in response.headers
        assert "elsewhere" not in response.text


@pytest.mark.parametrize(
    "path",
    ["/nothing", "//health", "/x/../health", "/./health", "/%ff", "/orgs%2f", "/HEALTH", "/ui/x"],
)
def test_a_path_that_is_not_in_the_contract_does_not_exist(service: Service, path: str) -> None:
    with raw(service.port) as connection:
        connection.send(f"GET {path} HTTP/1.1\r\nHost: service\r\n\r\n".encode())
        assert connection.answer().status_code == 404


def test_trap_7_one_operation_answers_json_a_problem_and_nothing(acme: Tenant) -> None:
    project = acme.project("Apollo")["id"]
    path = f"/orgs/{acme.org}/projects/{project}"
    assert acme.get(path).headers["content-type"] == "application/json"
    deleted = acme.http.delete(path)
    assert deleted.status_code == 204
    assert deleted.content == b""
    assert not {"content-type", "content-length", "transfer-encoding"} & deleted.headers.keys()
    assert acme.get(path).headers["content-type"] == "application/problem+json"


def test_every_answer_carries_the_headers_that_protect_browsers(
    acme: Tenant, nobody: httpx.Client
) -> None:
    answers = [acme.get("/auth/me"), nobody.get("/nothing"), nobody.get("/auth/me")]
    answers += [nobody.get("/health"), nobody.options("/orgs"), nobody.post("/auth/guest")]
    for response in answers:
        headers = response.headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert headers["x-request-id"]
        assert not {"server", "x-powered-by", "access-control-allow-origin"} & headers.keys()
    for response in (acme.get("/auth/me"), nobody.post("/auth/guest")):
        assert response.headers["cache-control"] == "no-store"
    exchanged = acme.http.post("/auth/token", json={"org_id": acme.org})
    assert exchanged.headers["cache-control"] == "no-store"


def test_what_is_created_says_where_it_is(acme: Tenant) -> None:
    made = acme.http.post("/orgs", json={"name": "Second"})
    assert acme.http.get(made.headers["location"]).json() == made.json()
    project = acme.http.post(f"/orgs/{acme.org}/projects", json={"name": "Apollo"})
    assert acme.http.get(project.headers["location"]).json() == project.json()


def test_no_origin_is_allowed_by_default(nobody: httpx.Client) -> None:
    asking = {"Origin": "https://app.example.com", "Access-Control-Request-Method": "POST"}
    for response in (
        nobody.options("/orgs", headers=asking),
        nobody.get("/health", headers=asking),
    ):
        assert not any(name.startswith("access-control") for name in response.headers)


def test_origins_and_proxies_are_believed_as_the_settings_list_them(
    tmp_path: Path, database: Database
) -> None:
    settings = {
        "CORS_ORIGINS": "https://app.example.com, http://localhost:3000",
        "TRUSTED_PROXIES": "127.0.0.0/8, 10.0.0.0/8",
        "GUEST_LIMIT": "2 per minute",
    }
    with serving(tmp_path, database.app_url, **settings) as own, own.http() as client:
        _origins(client)
        _forwarded(client)


def _origins(client: httpx.Client) -> None:
    for origin in ("https://app.example.com", "http://localhost:3000"):
        asking = {"Origin": origin, "Access-Control-Request-Method": "DELETE"}
        preflight = client.options(f"/orgs/{ID}", headers=asking)
        assert preflight.status_code == 204
        assert preflight.headers["access-control-allow-origin"] == origin
        assert "DELETE" in preflight.headers["access-control-allow-methods"]
        assert "Authorization" in preflight.headers["access-control-allow-headers"]
        for path in ("/health", "/auth/me", "/nothing"):
            answer = client.get(path, headers={"Origin": origin})
            assert answer.headers["access-control-allow-origin"] == origin
            assert answer.headers["vary"] == "Origin"
            assert "access-control-allow-credentials" not in answer.headers
    for origin in (
        *("null", "*", "https://app.example.com.evil", "https://evil-app.example.com", ""),
        *("http://app.example.com", "https://app.example.com:444", "https://APP.example.com"),
        *("https://app.example.com/", "https://app.example.com, http://localhost:3000"),
    ):
        asking = {"Origin": origin, "Access-Control-Request-Method": "DELETE"}
        for response in (
            client.options(f"/orgs/{ID}", headers=asking),
            client.get("/health", headers=asking),
        ):
            assert not any(name.startswith("access-control") for name in response.headers)
            assert response.headers["vary"] == "Origin"


def _forwarded(client: httpx.Client) -> None:
    """The nearest address that no trusted proxy vouches for is the client's."""

    def sign_in(*forwarded: str) -> httpx.Response:
        return client.post("/auth/guest", headers=[("X-Forwarded-For", f) for f in forwarded])

    assert [sign_in("192.0.2.1").status_code for _ in range(3)] == [201, 201, 429]
    limited = sign_in("198.51.100.7, 192.0.2.1")
    assert limited.status_code == 429
    assert 1 <= int(limited.headers["retry-after"]) <= 61
    for same in (
        ("192.0.2.1, 10.1.2.3",),
        ("203.0.113.9", "192.0.2.1"),
        ("unknown, 192.0.2.1",),
        ("203.0.113.9,192.0.2.1 , 10.0.0.1,127.0.0.1",),
    ):
        assert sign_in(*same).status_code == 429
    assert sign_in("192.0.2.2").status_code == 201
    assert sign_in("192.0.2.1, 192.0.2.2").status_code == 201
    assert sign_in("192.0.2.2").status_code == 429


def test_guests_are_limited_by_the_address_that_connects(strict: Service) -> None:
    with strict.http() as client:
        begun = time.monotonic()
        spoofs = [{"X-Forwarded-For": f"192.0.2.{n}", "Forwarded": f"for={n}"} for n in range(40)]
        statuses = [client.post("/auth/guest", headers=s).status_code for s in spoofs]
        assert time.monotonic() - begun < 40
        assert statuses == [201] * 20 + [429] * 20
        limited = client.post("/auth/guest")
        assert limited.json()["code"] == "too-many-requests"
        assert 1 <= int(limited.headers["retry-after"]) <= 61
        assert client.get("/health").status_code == 200


def _same(response: httpx.Response) -> dict[str, str]:
    """The headers that do not tell one request from the other; a problem names its request."""
    return {k: v for k, v in response.headers.items() if k not in ("x-request-id", "date")}
