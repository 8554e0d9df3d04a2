"""HTTP semantics of every operation of the contract: methods, headers, origins, rate limits."""

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


def fill(path: str, org: str = ID, project: str = ID) -> str:
    return path.replace("{org_id}", org).replace("{project_id}", project)


def allowed_methods() -> dict[str, set[str]]:
    """Return the methods of every path, as the contract declares them."""
    paths: dict[str, set[str]] = dict(DOCS)
    for operation in OPERATIONS:
        methods = paths.setdefault(operation.path, {"OPTIONS"})
        methods |= {operation.method.upper()} | ({"HEAD"} if operation.method == "get" else set())
    return paths


@pytest.mark.parametrize("path", sorted(allowed_methods()))
def test_a_method_that_a_path_does_not_support_is_405_with_those_that_it_does(
    shared_tenant: Tenant, anonymous: httpx.Client, path: str
) -> None:
    allowed = allowed_methods()[path]
    for client in (shared_tenant.http, anonymous):
        for method in METHODS:
            response = client.request(method, fill(path))
            assert (response.status_code == 405) is (method not in allowed), method
            if method not in allowed or method == "OPTIONS":
                assert set(response.headers["allow"].split(", ")) == allowed
            if method == "OPTIONS":
                assert response.status_code == 204
                assert response.content == b""


@pytest.mark.parametrize("operation", [o for o in OPERATIONS if o.security], ids=lambda o: o.id)
def test_a_secured_operation_says_how_to_authenticate(
    anonymous: httpx.Client, operation: contract.Operation
) -> None:
    path = fill(operation.path)
    missing = anonymous.request(operation.method, path)
    assert (missing.status_code, missing.headers["www-authenticate"]) == (401, "Bearer")
    for value in ("Bearer x", "Bearer", "Basic eDp5", "", "Bearer\tx", "Bearer\xa0x"):
        header = {b"Authorization": value.encode("latin-1")}
        invalid = anonymous.request(operation.method, path, headers=header)
        assert invalid.status_code == 401
        assert invalid.headers["www-authenticate"] == 'Bearer error="invalid_token"'


def test_two_authorization_headers_are_rejected(
    shared_tenant: Tenant, anonymous: httpx.Client
) -> None:
    good = f"Bearer {shared_tenant.token}"
    for values in ((good, good), (good, "Bearer x"), ("Bearer x", good)):
        headers = [("Authorization", value) for value in values]
        assert anonymous.get("/auth/me", headers=headers).status_code == 401


def test_only_operations_that_the_contract_makes_public_need_no_token(
    anonymous: httpx.Client,
) -> None:
    public = {
        operation.id
        for operation in OPERATIONS
        if anonymous.request(operation.method, fill(operation.path)).status_code != 401
    }
    assert public == {o.id for o in OPERATIONS if not o.security}
    assert public == {"system.index", "system.health", "system.ready", "auth.guest"}


@pytest.mark.parametrize(
    "operation", [o for o in OPERATIONS if o.method == "get"], ids=lambda o: o.id
)
def test_head_is_get_without_the_body(acme: Tenant, operation: contract.Operation) -> None:
    path = fill(operation.path, acme.org, acme.project("Apollo")["id"])
    for target, status in ((path, 200), (f"{path}?unknown=1", 400)):
        get, head = acme.http.get(target), acme.http.head(target)
        assert get.status_code == head.status_code == status
        assert head.content == b""
        assert _without_request_id(get) == _without_request_id(head)
        assert status == 400 or int(get.headers["content-length"]) == len(get.content)


def _without_request_id(response: httpx.Response) -> dict[str, str]:
    """Return the headers that two equal requests share."""
    return {k: v for k, v in response.headers.items() if k not in ("x-request-id", "date")}


@pytest.mark.parametrize("path", sorted({fill(p) for p in allowed_methods()} - {"/", "/ui"}))
def test_a_trailing_slash_is_another_path_and_never_redirects(
    shared_tenant: Tenant, path: str
) -> None:
    for method in ("GET", "POST"):
        headers = {"Host": "elsewhere.example", "X-Forwarded-Host": "elsewhere.example"}
        response = shared_tenant.http.request(method, f"{path}/", headers=headers)
        assert response.status_code == 404
        assert "location" not in response.headers
        assert "elsewhere" not in response.text


@pytest.mark.parametrize(
    "path",
    ["/nothing", "//health", "/x/../health", "/./health", "/%ff", "/orgs%2f", "/HEALTH", "/ui/x"],
)
def test_a_path_that_is_not_in_the_contract_is_not_found(service: Service, path: str) -> None:
    with raw(service.port) as connection:
        connection.send(f"GET {path} HTTP/1.1\r\nHost: service\r\n\r\n".encode())
        assert connection.response().status_code == 404


def test_the_media_type_is_that_of_the_body(acme: Tenant) -> None:
    project = acme.project("Apollo")["id"]
    path = f"/orgs/{acme.org}/projects/{project}"
    assert acme.get(path).headers["content-type"] == "application/json"
    deleted = acme.http.delete(path)
    assert deleted.status_code == 204
    assert deleted.content == b""
    assert not {"content-type", "content-length", "transfer-encoding"} & deleted.headers.keys()
    assert acme.get(path).headers["content-type"] == "application/problem+json"


def test_every_response_has_the_headers_that_protect_browsers(
    acme: Tenant, anonymous: httpx.Client
) -> None:
    responses = [acme.get("/auth/me"), anonymous.get("/nothing"), anonymous.get("/auth/me")]
    responses += [
        anonymous.get("/health"),
        anonymous.options("/orgs"),
        anonymous.post("/auth/guest"),
    ]
    for response in responses:
        headers = response.headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert headers["x-request-id"]
        assert not {"server", "x-powered-by", "access-control-allow-origin"} & headers.keys()


def test_responses_with_a_token_or_a_principal_are_not_stored(
    acme: Tenant, anonymous: httpx.Client
) -> None:
    exchange = acme.http.post("/auth/token", json={"org_id": acme.org})
    for response in (acme.get("/auth/me"), anonymous.post("/auth/guest"), exchange):
        assert response.is_success
        assert response.headers["cache-control"] == "no-store"


def test_the_location_of_a_created_resource_returns_it(acme: Tenant) -> None:
    org = acme.http.post("/orgs", json={"name": "Second"})
    assert acme.http.get(org.headers["location"]).json() == org.json()
    project = acme.http.post(f"/orgs/{acme.org}/projects", json={"name": "Apollo"})
    assert acme.http.get(project.headers["location"]).json() == project.json()


def test_no_origin_is_allowed_by_default(anonymous: httpx.Client) -> None:
    preflight = {"Origin": "https://app.example.com", "Access-Control-Request-Method": "POST"}
    for response in (
        anonymous.options("/orgs", headers=preflight),
        anonymous.get("/health", headers=preflight),
    ):
        assert not any(name.startswith("access-control") for name in response.headers)


def test_origins_and_proxies_are_trusted_as_the_settings_list_them(
    tmp_path: Path, database: Database
) -> None:
    settings = {
        "CORS_ORIGINS": "https://app.example.com, http://localhost:3000",
        "TRUSTED_PROXIES": "127.0.0.0/8, 10.0.0.0/8",
        "GUEST_LIMIT": "2 per minute",
    }
    with serving(tmp_path, database.app_url, **settings) as service, service.http() as client:
        _assert_listed_origins_allowed(client)
        _assert_other_origins_not_allowed(client)
        _assert_limited_by_forwarded_address(client)


def _assert_listed_origins_allowed(client: httpx.Client) -> None:
    for origin in ("https://app.example.com", "http://localhost:3000"):
        request = {"Origin": origin, "Access-Control-Request-Method": "DELETE"}
        preflight = client.options(f"/orgs/{ID}", headers=request)
        assert preflight.status_code == 204
        assert preflight.headers["access-control-allow-origin"] == origin
        assert "DELETE" in preflight.headers["access-control-allow-methods"]
        accepted = set(preflight.headers["access-control-allow-headers"].split(", "))
        assert {"Authorization", "Content-Type", "If-None-Match"} < accepted
        declared = {
            parameter["name"]
            for operation in contract.load().operations.values()
            for parameter in operation.parameters
            if parameter["in"] == "header"
        }
        assert declared <= accepted
        for path in ("/health", "/auth/me", "/nothing"):
            response = client.get(path, headers={"Origin": origin})
            assert response.headers["access-control-allow-origin"] == origin
            exposed = set(response.headers["access-control-expose-headers"].split(", "))
            assert {"Location", "Retry-After", "RateLimit", "X-Request-Id", "ETag"} < exposed
            assert response.headers["vary"] == "Origin"
            assert "access-control-allow-credentials" not in response.headers


def _assert_other_origins_not_allowed(client: httpx.Client) -> None:
    for origin in (
        *("null", "*", "https://app.example.com.evil", "https://evil-app.example.com", ""),
        *("http://app.example.com", "https://app.example.com:444", "https://APP.example.com"),
        *("https://app.example.com/", "https://app.example.com, http://localhost:3000"),
    ):
        request = {"Origin": origin, "Access-Control-Request-Method": "DELETE"}
        for response in (
            client.options(f"/orgs/{ID}", headers=request),
            client.get("/health", headers=request),
        ):
            assert not any(name.startswith("access-control") for name in response.headers)
            assert response.headers["vary"] == "Origin"


def _assert_limited_by_forwarded_address(client: httpx.Client) -> None:
    """The client is the nearest address that is not a trusted proxy."""

    def sign_in(*forwarded: str) -> httpx.Response:
        return client.post("/auth/guest", headers=[("X-Forwarded-For", f) for f in forwarded])

    assert [sign_in("192.0.2.1").status_code for _ in range(3)] == [201, 201, 429]
    limited = sign_in("198.51.100.7, 192.0.2.1")
    assert limited.status_code == 429
    assert 1 <= int(limited.headers["retry-after"]) <= 61
    for same_client in (
        ("192.0.2.1, 10.1.2.3",),
        ("203.0.113.9", "192.0.2.1"),
        ("unknown, 192.0.2.1",),
        ("203.0.113.9,192.0.2.1 , 10.0.0.1,127.0.0.1",),
    ):
        assert sign_in(*same_client).status_code == 429
    assert sign_in("192.0.2.2").status_code == 201
    assert sign_in("192.0.2.1, 192.0.2.2").status_code == 201
    assert sign_in("192.0.2.2").status_code == 429


def test_guests_are_limited_by_the_address_that_connects(limited_service: Service) -> None:
    with limited_service.http() as client:
        started = time.monotonic()
        spoofs = [{"X-Forwarded-For": f"192.0.2.{n}", "Forwarded": f"for={n}"} for n in range(40)]
        statuses = [client.post("/auth/guest", headers=s).status_code for s in spoofs]
        assert time.monotonic() - started < 40
        assert statuses == [201] * 20 + [429] * 20
        limited = client.post("/auth/guest")
        assert limited.json()["code"] == "too-many-requests"
        assert 1 <= int(limited.headers["retry-after"]) <= 61
        assert client.get("/health").status_code == 200
