"""Values at the edges of every type, to the database and back."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.platform.fix_resources import Desk, Owner, owner

PATH = "/orgs/{}/samples/{}"


@pytest.fixture(scope="module")
def acme(every_type: Desk) -> Iterator[Owner]:
    with owner(every_type, "Acme") as made:
        yield made


def patched(acme: Owner, name: str, text: str) -> Any:
    """Send a member as this JSON, and return what is answered then."""
    path = PATH.format(acme.org, acme.id("samples"))
    content = f'{{"{name}": {text}}}'.encode()
    sent = {"content": content, "headers": {"Content-Type": "application/json"}}
    answer = acme.http.patch(path, **sent)
    assert answer.status_code == 200, answer.text
    assert acme.get(path).text == answer.text
    return answer.json()[name]


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
def test_a_value_comes_back_as_it_was_sent(acme: Owner, name: str, text: str) -> None:
    came = patched(acme, name, text)
    if name == "uid":
        text = text.lower()
    if name == "mapping":  # a merge: what was there stays
        assert json.loads(text).items() <= came.items()
        return
    assert came == json.loads(text)


@pytest.mark.parametrize(
    ("sent", "came"),
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
def test_a_time_comes_back_in_utc(acme: Owner, sent: str, came: str) -> None:
    assert patched(acme, "moment", json.dumps(sent)) == came


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
def test_a_time_that_no_answer_could_hold_is_refused_by_name(
    acme: Owner, name: str, value: str
) -> None:
    path = PATH.format(acme.org, acme.id("samples"))
    answer = acme.http.patch(path, json={name: value})
    assert answer.status_code == 400
    [fault] = answer.json()["errors"]
    assert fault["pointer"] == f"/{name}"
    assert "of the years 1 to 9999" in fault["detail"]


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
def test_what_no_column_holds_is_refused(acme: Owner, text: str) -> None:
    path = PATH.format(acme.org, acme.id("samples"))
    sent = {"content": text.encode(), "headers": {"Content-Type": "application/json"}}
    answer = acme.http.patch(path, **sent)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid-request")


def test_defaults_fill_what_was_not_sent_and_what_may_be_absent_is_absent(acme: Owner) -> None:
    create = acme.contract.operations["samples.create"]
    body = acme.body(create)
    columns = acme.contract.tables["samples"].columns
    defaults = {c.name: c.default for c in columns if "default" in c.schema}
    optional = [c.name for c in columns if not c.required]
    for name in [*defaults, *optional]:
        body.pop(name, None)
    made = acme.post(acme.path(create), **body | {"uid": acme.org, "order": 9})
    wanted = defaults | {"order": 9, "moment_by_default": "2026-11-23T11:00:00+00:00"}
    assert wanted.items() <= {k: v for k, v in made.items() if k in wanted}.items()
    assert {name: made.get(name, "absent") for name in optional} == {
        name: None if name.endswith("_or_null") else "absent" for name in optional
    }


def test_an_object_that_is_stored_answers_with_its_names_sorted_by_length(acme: Owner) -> None:
    """As jsonb has it: JSON's objects have no order (RFC 8259 section 4)."""
    put = acme.contract.operations["samples.replace"]
    body = acme.body(put) | {"mapping": {"ccc": 1, "bb": 2, "a": 3}}
    answer = acme.http.put(acme.path(put), json=body)
    assert list(answer.json()["mapping"]) == ["a", "bb", "ccc"]
