"""What a path, a query and a header field may say, and how each is read."""

import pytest

from tests.platform.fix_problems import pointers
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
def test_trap_9_an_integer_is_written_in_ascii_digits_and_within_its_bounds(
    someone: Tenant, limit: str
) -> None:
    assert pointers(someone.http.get(f"/orgs?limit={limit}")) == [("query", "/limit")]


def test_an_integer_at_its_bounds_is_good(someone: Tenant) -> None:
    for limit in ("1", "20", "100"):
        assert someone.http.get(f"/orgs?limit={limit}").status_code == 200


@pytest.mark.parametrize(
    "query",
    [
        *("limit=1&limit=1", "limit=1&%6Cimit=2", "limit=%31&limit=1", "limit", "limit=1;limit=2"),
        *("limit[]=1", "limit[a][b]=1", "Limit=1", "f[a][b]=1", "unknown=1", "=1", "limit=1&x"),
    ],
)
def test_a_query_that_is_not_in_the_contract_is_refused(someone: Tenant, query: str) -> None:
    refused = someone.http.get(f"/orgs?{query}")
    assert {place for place, _ in pointers(refused)} == {"query"}


@pytest.mark.parametrize("query", ["%ff", "limit=%ff", "%c0%80=1", "limit=%ed%a0%80"])
def test_trap_8_a_query_that_is_not_utf8_is_refused(someone: Tenant, query: str) -> None:
    assert pointers(someone.http.get(f"/orgs?{query}")) == [("query", "")]


def test_names_and_values_of_a_query_are_decoded_and_empty_parts_ignored(someone: Tenant) -> None:
    for query in ("lim%69t=%31", "&&limit=1&", ""):
        assert someone.http.get(f"/orgs?{query}").status_code == 200


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
def test_a_cursor_of_another_form_is_refused(someone: Tenant, cursor: str) -> None:
    assert pointers(someone.http.get(f"/orgs?cursor={cursor}")) == [("query", "/cursor")]


@pytest.mark.parametrize(
    "id",
    [
        *("1", "me", "null", "%00", ID + "%00", ID[:-1], ID + "0", ID.replace("-", ""), "%ff"),
        *(f"%7B{ID}%7D", f"urn:uuid:{ID}", f"%20{ID}", f"{ID}%0A", ID.replace("0", "%D9%A0")),
        *("%ED%A0%80", "..%2F..%2Fetc", "%2e%2e", "9" * 5000, "'%20or%201=1--", "g" + ID[1:]),
    ],
)
def test_trap_10_an_id_that_is_no_uuid_never_reaches_the_database(someone: Tenant, id: str) -> None:
    assert pointers(someone.http.get(f"/orgs/{id}")) == [("path", "/org_id")]
    both = [("path", "/org_id"), ("path", "/project_id")]
    assert pointers(someone.http.get(f"/orgs/{id}/projects/{id}")) == both


def test_an_id_is_the_same_in_any_case_and_encoding(someone: Tenant) -> None:
    encoded = "".join(f"%{ord(c):02x}" for c in someone.org)
    for id in (someone.org.upper(), encoded):
        assert someone.http.get(f"/orgs/{id}").json()["id"] == someone.org
        assert someone.http.get(f"/orgs/{id}/projects").status_code == 200


def test_all_faults_of_a_request_are_named_at_once(someone: Tenant) -> None:
    refused = someone.http.post("/orgs/canary/projects?canary=canary", json={"name": ""})
    assert pointers(refused) == [("body", "/name"), ("path", "/org_id"), ("query", "/canary")]
    refused = someone.http.get("/orgs/canary/projects?limit=canary&cursor=canary")
    assert pointers(refused) == [("path", "/org_id"), ("query", "/cursor"), ("query", "/limit")]
    assert all("canary" not in fault["detail"] for fault in refused.json()["errors"])


def test_trap_5_a_fault_of_the_token_is_told_before_any_other(someone: Tenant) -> None:
    bad = {"Authorization": "Bearer canary"}
    refused = someone.http.post("/orgs/x/projects?y=1", content=b"\xff", headers=bad)
    assert refused.status_code == 401


@pytest.mark.parametrize(
    ("query", "seen"),
    [
        ("ratio=-1.5e0", "-1.5"),
        ("ratio=10", "10.0"),
        ("flag=true", "True"),
        ("words=a&words=b", "['a', 'b']"),
        ("at=2026-11-23T11:00:00%2B01:00", "'2026-11-23T11:00:00+01:00'"),
    ],
)
def test_parameters_arrive_in_their_types(planted: Service, query: str, seen: str) -> None:
    with planted.http() as client:
        assert seen in client.get(f"/planted/values?{query}").json()["seen"]


@pytest.mark.parametrize(
    "query",
    [
        *("ratio=nan", "ratio=NaN", "ratio=inf", "ratio=-Infinity", "ratio=1e400", "ratio=1_0"),
        *("ratio=%D9%A3", "ratio=", "ratio=.5", "ratio=5.", "ratio=1e", "ratio=0x1", "ratio=11"),
        *("flag=1", "flag=True", "flag=", "flag=yes", "words=A", "words=abcdef"),
        *("words=a&words=b&words=c&words=d", "at=yesterday", "at=2026-02-30T00:00:00Z"),
    ],
)
def test_traps_9_and_10_numbers_and_dates_are_read_strictly(planted: Service, query: str) -> None:
    with planted.http() as client:
        found = pointers(client.get(f"/planted/values?{query}"))
    assert {pointer.split("/")[1] for _, pointer in found} == {query.split("=")[0]}


@pytest.mark.parametrize("number", ["+", "%2B1", "1_0", "nan", "1.0", "9" * 5000, "%D9%A3", "1001"])
def test_trap_8_a_number_in_the_path_is_read_strictly(planted: Service, number: str) -> None:
    with planted.http() as client:
        assert client.get("/planted/numbers/7").json() == {"seen": "7"}
        refused = client.get(f"/planted/numbers/{number}")
    assert pointers(refused) == [("path", "/number_id")]


def test_a_header_parameter_is_read_once_and_strictly(planted: Service) -> None:
    with planted.http() as client:
        assert client.get("/planted/values", headers={"x-LEVEL": "3"}).json()["seen"].endswith("3")
        for headers in ([("X-Level", "10")], [("X-Level", "1_0")], [("X-Level", "1")] * 2):
            refused = client.get("/planted/values", headers=headers)
            assert pointers(refused) == [("header", "/X-Level")]


def test_trap_13_a_literal_path_wins_over_a_parameter_wherever_it_stands(planted: Service) -> None:
    with planted.http() as client:
        assert client.get("/planted/things/latest").json() == {"seen": "latest"}
        assert client.get("/planted/things/l%61test").json() == {"seen": "latest"}
        assert client.get("/planted/things/lates").json() == {"seen": "lates"}
        assert client.get("/planted/things/a%2Fb").json() == {"seen": "a/b"}
