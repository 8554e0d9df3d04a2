"""Parameters in path, query and header: which values are accepted, and as which types."""

import pytest

from tests.platform.fix_problems import error_pointers
from tests.platform.fix_service import Service, Tenant

ID = "019ab2f4-7c1e-7a52-9f3d-2b6c8e5d4a10"


@pytest.mark.parametrize(
    "limit",
    [
        *("0", "-1", "101", "1000000000", "1_0", "1e1", "1.0", "01", "+1", "%2B1", "-0"),
        *("nan", "NaN", "inf", "Infinity", "0x10", "ten", "true", "null", "%20", "10%20", "%0A10"),
        *("٣".encode().hex("%").join(["%", ""]), "%EF%BC%95", "9" * 5000, "", "10%00", "1,2"),
    ],
)
def test_an_integer_must_be_ascii_digits_within_its_bounds(
    shared_tenant: Tenant, limit: str
) -> None:
    assert error_pointers(shared_tenant.http.get(f"/orgs?limit={limit}")) == [("query", "/limit")]


def test_an_integer_may_equal_its_bounds(shared_tenant: Tenant) -> None:
    for limit in ("1", "20", "100"):
        assert shared_tenant.http.get(f"/orgs?limit={limit}").status_code == 200


@pytest.mark.parametrize(
    "query",
    [
        *("limit=1&limit=1", "limit=1&%6Cimit=2", "limit=%31&limit=1", "limit", "limit=1;limit=2"),
        *("limit[]=1", "limit[a][b]=1", "Limit=1", "f[a][b]=1", "unknown=1", "=1", "limit=1&x"),
    ],
)
def test_a_query_that_the_contract_does_not_declare_is_rejected(
    shared_tenant: Tenant, query: str
) -> None:
    rejected = shared_tenant.http.get(f"/orgs?{query}")
    assert {where for where, _ in error_pointers(rejected)} == {"query"}


@pytest.mark.parametrize("query", ["%ff", "limit=%ff", "%c0%80=1", "limit=%ed%a0%80"])
def test_a_query_that_is_not_utf_8_is_rejected(shared_tenant: Tenant, query: str) -> None:
    assert error_pointers(shared_tenant.http.get(f"/orgs?{query}")) == [("query", "")]


def test_a_query_is_percent_decoded_and_its_empty_parts_are_ignored(shared_tenant: Tenant) -> None:
    for query in ("lim%69t=%31", "&&limit=1&", ""):
        assert shared_tenant.http.get(f"/orgs?{query}").status_code == 200


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "a",
        "A" * 21,
        "A" * 23,
        "A" * 21 + "B",
        "A" * 21 + "%3D",
        "A" * 20 + "%00A",
        "A" * 21 + "/",
    ],
)
def test_a_malformed_cursor_is_rejected(shared_tenant: Tenant, cursor: str) -> None:
    assert error_pointers(shared_tenant.http.get(f"/orgs?cursor={cursor}")) == [
        ("query", "/cursor")
    ]


@pytest.mark.parametrize(
    "id",
    [
        *("1", "me", "null", "%00", ID + "%00", ID[:-1], ID + "0", ID.replace("-", ""), "%ff"),
        *(f"%7B{ID}%7D", f"urn:uuid:{ID}", f"%20{ID}", f"{ID}%0A", ID.replace("0", "%D9%A0")),
        *("%ED%A0%80", "..%2F..%2Fetc", "%2e%2e", "9" * 5000, "'%20or%201=1--", "g" + ID[1:]),
    ],
)
def test_an_id_that_is_not_a_uuid_is_rejected(shared_tenant: Tenant, id: str) -> None:
    assert error_pointers(shared_tenant.http.get(f"/orgs/{id}")) == [("path", "/org_id")]
    both = [("path", "/org_id"), ("path", "/project_id")]
    assert error_pointers(shared_tenant.http.get(f"/orgs/{id}/projects/{id}")) == both


def test_an_id_is_case_insensitive_and_may_be_percent_encoded(shared_tenant: Tenant) -> None:
    encoded = "".join(f"%{ord(c):02x}" for c in shared_tenant.org)
    for id in (shared_tenant.org.upper(), encoded):
        assert shared_tenant.http.get(f"/orgs/{id}").json()["id"] == shared_tenant.org
        assert shared_tenant.http.get(f"/orgs/{id}/projects").status_code == 200


def test_all_errors_of_a_request_are_reported_at_once(shared_tenant: Tenant) -> None:
    rejected = shared_tenant.http.post("/orgs/canary/projects?canary=canary", json={"name": ""})
    assert error_pointers(rejected) == [
        ("body", "/name"),
        ("path", "/org_id"),
        ("query", "/canary"),
    ]
    rejected = shared_tenant.http.get("/orgs/canary/projects?limit=canary&cursor=canary")
    assert error_pointers(rejected) == [
        ("path", "/org_id"),
        ("query", "/cursor"),
        ("query", "/limit"),
    ]
    assert all("canary" not in error["detail"] for error in rejected.json()["errors"])


def test_a_bad_token_is_rejected_before_the_request_is_validated(shared_tenant: Tenant) -> None:
    bad_token = {"Authorization": "Bearer canary"}
    rejected = shared_tenant.http.post("/orgs/x/projects?y=1", content=b"\xff", headers=bad_token)
    assert rejected.status_code == 401


@pytest.mark.parametrize(
    ("query", "received"),
    [
        ("ratio=-1.5e0", "-1.5"),
        ("ratio=10", "10.0"),
        ("flag=true", "True"),
        ("words=a&words=b", "['a', 'b']"),
        ("at=2026-11-23T11:00:00%2B01:00", "'2026-11-23T11:00:00+01:00'"),
    ],
)
def test_handlers_receive_parameters_in_their_types(
    faulty: Service, query: str, received: str
) -> None:
    with faulty.http() as client:
        assert received in client.get(f"/faults/values?{query}").json()["received"]


@pytest.mark.parametrize(
    "query",
    [
        *("ratio=nan", "ratio=NaN", "ratio=inf", "ratio=-Infinity", "ratio=1e400", "ratio=1_0"),
        *("ratio=%D9%A3", "ratio=", "ratio=.5", "ratio=5.", "ratio=1e", "ratio=0x1", "ratio=11"),
        *("flag=1", "flag=True", "flag=", "flag=yes", "words=A", "words=abcdef"),
        *("words=a&words=b&words=c&words=d", "at=yesterday", "at=2026-02-30T00:00:00Z"),
    ],
)
def test_a_malformed_or_invalid_value_is_rejected(faulty: Service, query: str) -> None:
    with faulty.http() as client:
        errors = error_pointers(client.get(f"/faults/values?{query}"))
    assert {pointer.split("/")[1] for _, pointer in errors} == {query.split("=")[0]}


@pytest.mark.parametrize("number", ["+", "%2B1", "1_0", "nan", "1.0", "9" * 5000, "%D9%A3", "1001"])
def test_a_malformed_number_in_the_path_is_rejected(faulty: Service, number: str) -> None:
    with faulty.http() as client:
        assert client.get("/faults/numbers/7").json() == {"received": "7"}
        rejected = client.get(f"/faults/numbers/{number}")
    assert error_pointers(rejected) == [("path", "/number_id")]


def test_a_header_parameter_is_validated_and_must_not_be_repeated(faulty: Service) -> None:
    with faulty.http() as client:
        response = client.get("/faults/values", headers={"x-LEVEL": "3"})
        assert response.json()["received"].endswith("3")
        for headers in ([("X-Level", "10")], [("X-Level", "1_0")], [("X-Level", "1")] * 2):
            rejected = client.get("/faults/values", headers=headers)
            assert error_pointers(rejected) == [("header", "/X-Level")]


def test_a_literal_path_wins_over_a_parameter_in_any_order_of_declaration(faulty: Service) -> None:
    with faulty.http() as client:
        assert client.get("/faults/things/latest").json() == {"received": "latest"}
        assert client.get("/faults/things/l%61test").json() == {"received": "latest"}
        assert client.get("/faults/things/lates").json() == {"received": "lates"}
        assert client.get("/faults/things/a%2Fb").json() == {"received": "a/b"}
