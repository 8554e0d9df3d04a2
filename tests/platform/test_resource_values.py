"""Boundary values of every type survive the round trip to the database."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.platform.fix_resources import ResourceService, ResourceTenant, resource_tenant

PATH = "/orgs/{}/samples/{}"
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def acme(every_type: ResourceService) -> Iterator[ResourceTenant]:
    with resource_tenant(every_type, "Acme") as created:
        yield created


def patch_text(acme: ResourceTenant, text: str) -> httpx.Response:
    """Patch the sample with a body of exactly this text."""
    path = PATH.format(acme.org, acme.id("samples"))
    return acme.http.patch(path, content=text.encode(), headers=JSON)


def patch(acme: ResourceTenant, name: str, text: str) -> Any:
    """Set a member to this JSON text, and return its value in the response."""
    response = patch_text(acme, f'{{"{name}": {text}}}')
    assert response.status_code == 200, response.text
    assert acme.get(PATH.format(acme.org, acme.id("samples"))).text == response.text
    return response.json()[name]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("large", "9223372036854775807"),
        ("large", "-9223372036854775808"),
        ("small", "-2147483648"),
        ("double", "-0.0"),
        ("double", "5e-324"),
        ("double", "1.7e308"),
        ("double", "0.1"),
        ("double", "2.2250738585072014e-308"),
        ("single", "0.1"),
        ("single", "1e30"),
        ("decimal", "-999999.9999999999"),
        ("flag", "false"),
        ("chosen", '"\U0001d54f"'),
        ("text", json.dumps("\U0001d54f" * 5000)),
        ("text", json.dumps("\"\\/'$1{}%s; --\u2028")),
        ("text", '"e\\u0301"'),
        ("uid", '"FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF"'),
        ("bytes", '"/+8="'),
        ("bytes", '""'),
        ("uri", '"https://example.com/%F0%9F%98%80?a=b#c"'),
        ("ipv6", '"::ffff:192.0.2.1"'),
        ("day", '"0001-01-01"'),
        ("day", '"9999-12-31"'),
        ("mapping", '{"\U0001d54f": 1e-7, "": -0.5, "z": 100, "a": 1E1}'),
        ("mapping", "{}"),
        ("listed", "[]"),
        ("closed_or_null", '{"a": 9, "b": "\U0001d54f"}'),
        ("text_or_null", "null"),
    ],
)
def test_a_value_is_returned_as_it_was_sent(acme: ResourceTenant, name: str, text: str) -> None:
    returned = patch(acme, name, text)
    if name == "uid":
        text = text.lower()
    if name == "mapping":  # merged into the stored object
        assert json.loads(text).items() <= returned.items()
        return
    assert returned == json.loads(text)


@pytest.mark.parametrize(
    ("sent", "returned"),
    [
        ("2016-12-31T23:59:60Z", "2017-01-01T00:00:00+00:00"),
        ("2017-01-01T00:59:60.5+01:00", "2017-01-01T00:00:00.5+00:00"),
        ("2026-01-01t00:00:00.123456z", "2026-01-01T00:00:00.123456+00:00"),
        ("2026-01-01T00:00:00.1234569Z", "2026-01-01T00:00:00.123456+00:00"),
        ("2026-01-01T00:00:00+23:59", "2025-12-31T00:01:00+00:00"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00+00:00"),
        ("9999-12-31T23:59:59.9999999Z", "9999-12-31T23:59:59.999999+00:00"),
        ("1800-01-01T00:00:00-00:00", "1800-01-01T00:00:00+00:00"),
    ],
)
def test_a_time_is_returned_in_utc(acme: ResourceTenant, sent: str, returned: str) -> None:
    assert patch(acme, "moment", json.dumps(sent)) == returned


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("moment", "0000-01-01T00:00:00Z"),
        ("moment", "0001-01-01T00:00:00+00:01"),
        ("moment", "9999-12-31T23:59:59-00:01"),
        ("moment_or_null", "9999-12-31T23:59:60Z"),
        ("day", "0000-01-01"),
    ],
)
def test_a_time_outside_the_years_1_to_9999_is_rejected_by_name(
    acme: ResourceTenant, name: str, value: str
) -> None:
    path = PATH.format(acme.org, acme.id("samples"))
    response = acme.http.patch(path, json={name: value})
    assert response.status_code == 400
    [error] = response.json()["errors"]
    assert error["pointer"] == f"/{name}"
    assert "in the years 1 to 9999" in error["detail"]


@pytest.mark.parametrize(
    "text",
    [
        '{"text": "a\\u0000b"}',
        '{"mapping": {"a\\u0000b": 1}}',
        '{"text": "\\ud800"}',
        '{"double": 1e400}',
        '{"double": NaN}',
        '{"large": 9223372036854775808}',
        '{"large": 1.0}',
        '{"small": 2147483648}',
        '{"moment": "2026-06-30T12:34:60Z"}',
        '{"bytes": "A"}',
        '{"flag": null}',
        '{"id": "019ab2f5-03d8-7c6b-8a41-6e0f9d2c7b36"}',
        '{"org_id": "019ab2f5-03d8-7c6b-8a41-6e0f9d2c7b36"}',
        '{"created_at": "2026-01-01T00:00:00Z"}',
    ],
)
def test_a_value_that_no_column_can_store_is_rejected(acme: ResourceTenant, text: str) -> None:
    response = patch_text(acme, text)
    assert (response.status_code, response.json()["code"]) == (400, "invalid-request")


def test_columns_that_are_not_sent_have_their_default_or_are_absent(
    acme: ResourceTenant,
) -> None:
    create = acme.contract.operations["samples.create"]
    body = acme.body(create)
    columns = acme.contract.tables["samples"].columns
    defaults = {c.name: c.default for c in columns if "default" in c.schema}
    optional = [c.name for c in columns if not c.required]
    for name in [*defaults, *optional]:
        body.pop(name, None)
    row = acme.post(acme.path(create), **body | {"uid": acme.org, "order": 9})
    expected = defaults | {"order": 9, "moment_by_default": "2026-11-23T11:00:00+00:00"}
    assert expected.items() <= {k: v for k, v in row.items() if k in expected}.items()
    assert {name: row.get(name, "absent") for name in optional} == {
        name: None if name.endswith("_or_null") else "absent" for name in optional
    }


def test_the_names_of_a_stored_object_are_returned_sorted_by_length(acme: ResourceTenant) -> None:
    """jsonb stores them so; objects in JSON are unordered (RFC 8259 section 4)."""
    replace = acme.contract.operations["samples.replace"]
    body = acme.body(replace) | {"mapping": {"ccc": 1, "bb": 2, "a": 3}}
    response = acme.http.put(acme.path(replace), json=body)
    assert list(response.json()["mapping"]) == ["a", "bb", "ccc"]
