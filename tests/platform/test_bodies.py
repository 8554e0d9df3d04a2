"""Request bodies: declared as JSON, strict JSON in UTF-8, bounded, valid by the contract."""

import json
import time
from collections.abc import Iterator

import httpx
import psutil
import pytest

from service.operations import validation
from tests.platform.fix_problems import error_pointers
from tests.platform.fix_service import Service, Tenant

JSON = {"Content-Type": "application/json"}
MIB = 1_048_576


def send(
    tenant: Tenant, content: bytes | Iterator[bytes], headers: dict[str, str] | None = None
) -> httpx.Response:
    return tenant.http.post("/orgs", content=content, headers=JSON if headers is None else headers)


def padded(size: int) -> bytes:
    """Return a valid body of `size` bytes."""
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
def test_the_media_type_is_case_insensitive_and_may_have_parameters(
    shared_tenant: Tenant, media_type: str
) -> None:
    headers = {"Content-Type": media_type}
    assert send(shared_tenant, b'{"name": "Acme"}', headers).status_code == 201
    assert error_pointers(send(shared_tenant, b'{"name": 5}', headers)) == [("body", "/name")]


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
def test_a_body_that_is_not_declared_as_json_is_rejected(
    shared_tenant: Tenant, headers: dict[str, str]
) -> None:
    response = send(shared_tenant, b'{"name": "Acme"}', headers)
    assert response.status_code == 415
    assert response.json()["code"] == "unsupported-media-type"


def test_two_content_types_are_rejected(shared_tenant: Tenant) -> None:
    twice = [("Content-Type", "application/json"), ("Content-Type", "application/json")]
    assert (
        shared_tenant.http.post("/orgs", content=b'{"name": "A"}', headers=twice).status_code == 415
    )


@pytest.mark.parametrize(
    "content",
    {
        "only spaces": b"   ",
        "truncated": b'{"name": "Ac',
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
        "100,000 unclosed arrays": b"[" * 100_000,
        "duplicate name": b'{"name": "A", "name": "B"}',
        "duplicate name, escaped": b'{"name": "A", "n\\u0061me": "B"}',
        "duplicate name, nested": b'{"name": {"a": 1, "a": 2}}',
        "deep value of a duplicate name": b'{"name": '
        + b"[" * 999
        + b"]" * 999
        + b', "name": "A"}',
    }.items(),
    ids=lambda case: case[0],
)
def test_a_body_that_is_not_strict_json_is_rejected(
    shared_tenant: Tenant, content: tuple[str, bytes]
) -> None:
    assert error_pointers(send(shared_tenant, content[1])) == [("body", "")]


def test_a_body_may_be_64_levels_deep_and_not_65(shared_tenant: Tenant) -> None:
    def deep(levels: int) -> bytes:
        return b'{"name": ' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"

    assert error_pointers(send(shared_tenant, deep(64))) == [("body", "/name")]
    assert error_pointers(send(shared_tenant, deep(65))) == [("body", "")]


def test_a_chunked_body_is_accepted(shared_tenant: Tenant) -> None:
    response = send(shared_tenant, iter([b'{"na', b'me": "', b'Chunked"}']))
    assert response.status_code == 201
    assert response.json()["name"] == "Chunked"


def test_a_missing_body_is_rejected_with_or_without_a_media_type(shared_tenant: Tenant) -> None:
    assert error_pointers(shared_tenant.http.post("/orgs")) == [("body", "")]
    assert error_pointers(send(shared_tenant, b"")) == [("body", "")]


@pytest.mark.parametrize("value", [None, True, 1, 1.5, "x", [], ["name"], {}])
def test_a_body_of_another_type_is_rejected(shared_tenant: Tenant, value: object) -> None:
    expected = [("body", "/name")] if value == {} else [("body", "")]
    assert error_pointers(shared_tenant.http.post("/orgs", json=value)) == expected


def test_text_in_any_script_is_returned_as_it_was_sent(shared_tenant: Tenant) -> None:
    for name in ("Ünïcode", "日本", "𠀀 🚀", 'a:"b":{}\\', "x" * 100, "\u202e"):
        assert shared_tenant.post("/orgs", name=name)["name"] == name
    assert send(shared_tenant, b'{"name": "\\ud83d\\ude80 \\u0041"}').json()["name"] == "🚀 A"
    assert error_pointers(shared_tenant.http.post("/orgs", json={"name": "x" * 101})) == [
        ("body", "/name")
    ]
    assert error_pointers(shared_tenant.http.post("/orgs", json={"name": "a\u007fb"})) == [
        ("body", "/name")
    ]


def test_a_declared_length_of_more_than_one_mebibyte_is_rejected(
    shared_tenant: Tenant,
) -> None:
    assert send(shared_tenant, padded(MIB)).status_code == 201
    rejected = send(shared_tenant, padded(MIB + 1))
    assert rejected.status_code == 413
    assert rejected.headers["connection"] == "close"


def test_a_body_without_a_declared_length_is_bounded_too(shared_tenant: Tenant) -> None:
    body = padded(MIB + 1)
    chunks = (body[n : n + 65_536] for n in range(0, len(body), 65_536))
    rejected = send(shared_tenant, chunks)
    assert rejected.status_code == 413
    assert rejected.headers["connection"] == "close"
    body = padded(MIB)
    assert send(shared_tenant, iter([body[:500_000], body[500_000:]])).status_code == 201


def test_rejected_large_bodies_are_not_kept_in_memory_and_not_sent_back(
    service: Service, shared_tenant: Tenant
) -> None:
    process = psutil.Process(service.process.pid)
    send(shared_tenant, json.dumps({"name": "x" * (MIB - 20)}).encode())
    before = process.memory_info().rss
    for _ in range(12):
        rejected = send(shared_tenant, json.dumps({"name": "x" * (MIB - 20)}).encode())
        assert error_pointers(rejected) == [("body", "/name")]
        assert len(rejected.content) < 1000
        endless = (b"x" * 65_536 for _ in range(160))
        assert send(shared_tenant, endless).status_code == 413
    assert process.memory_info().rss - before < 2 * MIB * 8


def test_a_write_only_property_is_accepted_and_a_read_only_property_is_rejected(
    faulty: Service,
) -> None:
    with faulty.http() as client:
        sent = client.post("/faults/things", json={"secret": "word", "name": "x"})
        assert sent.json() == {"received": "{'secret': 'word', 'name': 'x'}"}
        id = "019ab2f4-7c1e-7a52-9f3d-2b6c8e5d4a10"
        assert error_pointers(client.post("/faults/things", json={"id": id})) == [("body", "/id")]


@pytest.mark.parametrize(
    ("name", "valid", "invalid"),
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
def test_types_and_formats_are_validated(
    faulty: Service, name: str, valid: object, invalid: object
) -> None:
    with faulty.http() as client:
        assert client.post("/faults/things", json={name: valid}).status_code == 200
        rejected = client.post("/faults/things", json={name: invalid})
        assert error_pointers(rejected) == [("body", f"/{name}")]


def test_an_optional_body_may_be_missing(faulty: Service) -> None:
    with faulty.http() as client:
        assert client.post("/faults/things").json() == {"received": "None"}


def test_every_error_of_a_body_has_a_pointer_and_never_the_value(
    faulty: Service,
) -> None:
    body = {
        "name": "canary" * 10,
        "at": "canary",
        "count": -1,
        "many": [1, "canary", 99],
        "canary~/": 1,
        "unknown": 2,
    }
    with faulty.http() as client:
        rejected = client.post("/faults/things", json=body)
    assert error_pointers(rejected) == [
        ("body", ""),
        ("body", "/at"),
        ("body", "/count"),
        ("body", "/many/1"),
        ("body", "/many/2"),
        ("body", "/name"),
        ("body", "/unknown"),
    ]
    assert "canary" not in rejected.text


def test_errors_are_counted_beyond_those_that_are_listed(shared_tenant: Tenant) -> None:
    rejected = shared_tenant.http.post("/orgs", json={f"x{n}": n for n in range(200)})
    assert len(rejected.json()["errors"]) == 50
    assert rejected.json()["detail"] == "201 errors"


def test_a_large_invalid_body_has_a_single_error() -> None:
    """Each error would copy the body: a megabyte of members blocked the event loop for seconds."""
    names = [f"p{n}" for n in range(20)]
    schema = {
        "type": "object",
        "required": names,
        "properties": {name: {"type": "integer"} for name in names},
        "additionalProperties": False,
    }
    validate = validation.compile_schema(schema, "body", is_request=True)
    started = time.process_time()
    [error] = validate({f"a{n}": n for n in range(90_000)})
    assert time.process_time() - started < 1
    assert error.pointer == ""
    assert error.detail == "does not match the contract, and contains more than 2000 values"
    assert len(validate({"a": 1})) == 21
