"""What a body may be: JSON in UTF-8, declared as such, bounded, and as the contract says."""

import json
import time
from collections.abc import Iterator

import httpx
import psutil
import pytest

from service.operations import validation
from tests.platform.fix_problems import pointers
from tests.platform.fix_service import Service, Tenant

JSON = {"Content-Type": "application/json"}
MIB = 1_048_576


def send(
    tenant: Tenant, content: bytes | Iterator[bytes], headers: dict[str, str] | None = None
) -> httpx.Response:
    return tenant.http.post("/orgs", content=content, headers=JSON if headers is None else headers)


def padded(size: int) -> bytes:
    """A good body of so many bytes."""
    return b'{"name": "Acme"' + b" " * (size - 16) + b"}"


@pytest.mark.parametrize(
    "media_type",
    [
        "application/json",
        "Application/JSON",
        "APPLICATION/JSON; Charset=UTF-8",
        'application/json;charset="utf-8"',
        "application/json ; x=y;",
    ],
)
def test_trap_2_json_is_json_however_its_media_type_is_spelt(
    someone: Tenant, media_type: str
) -> None:
    headers = {"Content-Type": media_type}
    assert send(someone, b'{"name": "Acme"}', headers).status_code == 201
    assert pointers(send(someone, b'{"name": 5}', headers)) == [("body", "/name")]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Type": ""},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/jsonp"},
        {"Content-Type": "application/vnd.api+json"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "application/json, text/plain"},
        {"Content-Type": "application/json; charset=utf-16"},
        {"Content-Type": "application/json; charset=bogus"},
        {"Content-Type": "application/json; charset=utf-8; charset=latin-1"},
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
        {"Content-Type": "application/json", "Content-Encoding": "identity, br"},
    ],
)
def test_trap_3_a_body_that_is_not_declared_as_json_never_reaches_the_handler(
    someone: Tenant, headers: dict[str, str]
) -> None:
    response = send(someone, b'{"name": "Acme"}', headers)
    assert response.status_code == 415
    assert response.json()["code"] == "unsupported-media-type"


def test_trap_9_two_content_types_are_no_content_type(someone: Tenant) -> None:
    twice = [("Content-Type", "application/json"), ("Content-Type", "application/json")]
    assert someone.http.post("/orgs", content=b'{"name": "A"}', headers=twice).status_code == 415


@pytest.mark.parametrize(
    "content",
    {
        "nothing but spaces": b"   ",
        "cut short": b'{"name": "Ac',
        "two values": b'{"name": "A"} {}',
        "single quotes": b"{'name': 'A'}",
        "trailing comma": b'{"name": "A",}',
        "comment": b'{"name": "A"} // x',
        "invalid UTF-8": b'{"name": "\xff\xfe"}',
        "overlong UTF-8": b'{"name": "\xc0\x80"}',
        "surrogates in UTF-8": b'{"name": "\xed\xa0\x80"}',
        "UTF-16": '{"name": "A"}'.encode("utf-16"),
        "byte order mark": b'\xef\xbb\xbf{"name": "A"}',
        "NUL byte": b'{"name": "A\x00"}',
        "escaped NUL": b'{"name": "A\\u0000"}',
        "escaped NUL in a name": b'{"name": "A", "\\u0000": 1}',
        "lone high surrogate": b'{"name": "\\ud800"}',
        "lone low surrogate": b'{"name": "\\udc00x"}',
        "surrogates swapped": b'{"name": "\\udc00\\ud800"}',
        "NaN": b'{"name": NaN}',
        "Infinity": b'{"name": -Infinity}',
        "1e400": b'{"name": 1e400}',
        "5000 digits": b'{"name": ' + b"9" * 5000 + b"}",
        "leading zero": b'{"name": 01}',
        "plus sign": b'{"name": +1}',
        "100,000 arrays": b'{"name": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        "100,000 objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        "100,000 arrays without end": b"[" * 100_000,
        "a name twice": b'{"name": "A", "name": "B"}',
        "a name twice, escaped": b'{"name": "A", "n\\u0061me": "B"}',
        "a name twice, deeper": b'{"name": {"a": 1, "a": 2}}',
        "deep below a hidden name": b'{"name": ' + b"[" * 999 + b"]" * 999 + b', "name": "A"}',
    }.items(),
    ids=lambda case: case[0],
)
def test_traps_8_and_9_what_is_not_strict_json_is_refused(
    someone: Tenant, content: tuple[str, bytes]
) -> None:
    assert pointers(send(someone, content[1])) == [("body", "")]


def test_trap_8_a_value_may_be_64_levels_deep_and_not_65(someone: Tenant) -> None:
    def deep(levels: int) -> bytes:
        return b'{"name": ' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"

    assert pointers(send(someone, deep(64))) == [("body", "/name")]
    assert pointers(send(someone, deep(65))) == [("body", "")]


def test_trap_10_chunked_bodies_are_bodies(someone: Tenant) -> None:
    response = send(someone, iter([b'{"na', b'me": "', b'Chunked"}']))
    assert response.status_code == 201
    assert response.json()["name"] == "Chunked"


def test_a_missing_body_is_missing_whatever_its_type(someone: Tenant) -> None:
    assert pointers(someone.http.post("/orgs")) == [("body", "")]
    assert pointers(send(someone, b"")) == [("body", "")]


@pytest.mark.parametrize("value", [None, True, 1, 1.5, "x", [], ["name"], {}])
def test_a_body_of_another_type_is_refused(someone: Tenant, value: object) -> None:
    expected = [("body", "/name")] if value == {} else [("body", "")]
    assert pointers(someone.http.post("/orgs", json=value)) == expected


def test_text_of_every_script_comes_back_as_it_was_sent(someone: Tenant) -> None:
    for name in ("Ünïcode", "日本", "𠀀 🚀", 'a:"b":{}\\', "x" * 100, "\u202e"):
        assert someone.post("/orgs", name=name)["name"] == name
    assert send(someone, b'{"name": "\\ud83d\\ude80 \\u0041"}').json()["name"] == "🚀 A"
    assert pointers(someone.http.post("/orgs", json={"name": "x" * 101})) == [("body", "/name")]
    assert pointers(someone.http.post("/orgs", json={"name": "a\u007fb"})) == [("body", "/name")]


def test_trap_4_a_body_above_one_mebibyte_is_refused_by_its_declared_length(
    someone: Tenant,
) -> None:
    assert send(someone, padded(MIB)).status_code == 201
    refused = send(someone, padded(MIB + 1))
    assert refused.status_code == 413
    assert refused.headers["connection"] == "close"


def test_trap_4_a_body_without_a_declared_length_is_bounded_all_the_same(someone: Tenant) -> None:
    body = padded(MIB + 1)
    pieces = (body[n : n + 65_536] for n in range(0, len(body), 65_536))
    refused = send(someone, pieces)
    assert refused.status_code == 413
    assert refused.headers["connection"] == "close"
    body = padded(MIB)
    assert send(someone, iter([body[:500_000], body[500_000:]])).status_code == 201


def test_trap_4_large_bodies_cost_the_service_no_memory_and_are_not_sent_back(
    service: Service, someone: Tenant
) -> None:
    process = psutil.Process(service.process.pid)
    send(someone, json.dumps({"name": "x" * (MIB - 20)}).encode())
    before = process.memory_info().rss
    for _ in range(12):
        refused = send(someone, json.dumps({"name": "x" * (MIB - 20)}).encode())
        assert pointers(refused) == [("body", "/name")]
        assert len(refused.content) < 1000
        endless = (b"x" * 65_536 for _ in range(160))
        assert send(someone, endless).status_code == 413
    assert process.memory_info().rss - before < 2 * MIB * 8


def test_trap_9_what_is_read_only_is_not_written_and_what_is_write_only_is(
    planted: Service,
) -> None:
    with planted.http() as client:
        sent = client.post("/planted/things", json={"secret": "word", "name": "x"})
        assert sent.json() == {"seen": "{'secret': 'word', 'name': 'x'}"}
        id = "019ab2f4-7c1e-7a52-9f3d-2b6c8e5d4a10"
        assert pointers(client.post("/planted/things", json={"id": id})) == [("body", "/id")]


@pytest.mark.parametrize(
    ("member", "good", "bad"),
    [
        ("at", "2026-11-23T11:00:00Z", "2026-11-23"),
        ("at", "2026-11-23T11:00:00.123+01:00", "2026-13-01T00:00:00Z"),
        ("at", "2024-02-29T23:59:59Z", "2026-02-29T11:00:00Z"),
        ("at", "2026-11-23t11:00:00z", "2026-11-23T11:00:00"),
        ("ratio", 9.5, 10.5),
        ("ratio", 1e-300, "1"),
        ("count", 1000, 1001),
        ("count", 0, 0.5),
        ("count", 7, True),
        ("count", 8, 10**18),
        ("note", None, "x" * 10),
        ("many", [1, 2, 3], [1, 2, 3, 4]),
    ],
)
def test_trap_10_types_and_formats_are_checked(
    planted: Service, member: str, good: object, bad: object
) -> None:
    with planted.http() as client:
        assert client.post("/planted/things", json={member: good}).status_code == 200
        refused = client.post("/planted/things", json={member: bad})
        assert pointers(refused) == [("body", f"/{member}")]


def test_an_optional_body_may_be_absent(planted: Service) -> None:
    with planted.http() as client:
        assert client.post("/planted/things").json() == {"seen": "None"}


def test_every_fault_of_a_body_is_named_by_its_pointer_and_none_by_its_value(
    planted: Service,
) -> None:
    body = {
        "name": "canary" * 10,
        "at": "canary",
        "count": -1,
        "many": [1, "canary", 99],
        "canary~/": 1,
        "unknown": 2,
    }
    with planted.http() as client:
        refused = client.post("/planted/things", json=body)
    assert pointers(refused) == [
        ("body", ""),
        ("body", "/at"),
        ("body", "/count"),
        ("body", "/many/1"),
        ("body", "/many/2"),
        ("body", "/name"),
        ("body", "/unknown"),
    ]
    assert "canary" not in refused.text


def test_more_faults_than_fit_are_counted(someone: Tenant) -> None:
    refused = someone.http.post("/orgs", json={f"x{n}": n for n in range(200)})
    assert len(refused.json()["errors"]) == 50
    assert refused.json()["detail"] == "201 faults"


def test_what_is_wrong_with_a_large_body_is_not_looked_for() -> None:
    """Each fault would copy the body: a megabyte of members took seconds of the event loop."""
    names = [f"p{n}" for n in range(20)]
    schema = {
        "type": "object",
        "required": names,
        "properties": {name: {"type": "integer"} for name in names},
        "additionalProperties": False,
    }
    check = validation.compile_schema(schema, "body", sent=True)
    began = time.process_time()
    [fault] = check({f"a{n}": n for n in range(90_000)})
    assert time.process_time() - began < 1
    assert (fault.pointer, "2000 values" in fault.detail) == ("", True)
    assert len(check({"a": 1})) == 21
