"""Walks through lists: filtered, sorted, while others come and go."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.platform.fix_resources import Desk, Owner, owner

SORTS = ["", "priority", "-priority", "created_at", "-created_at", "subject", "due", "-due"]


@pytest.fixture
def acme(ticket_desk: Desk) -> Iterator[Owner]:
    with owner(ticket_desk, "Acme") as made:
        yield made


def ticket(acme: Owner, reference: str, **columns: Any) -> dict[str, Any]:
    create = acme.contract.operations["tickets.create"]
    body = acme.body(create) | {"reference": reference, **columns}
    return acme.post(f"/orgs/{acme.org}/tickets", **body)


def page(acme: Owner, **query: Any) -> dict[str, Any]:
    answer = acme.get(f"/orgs/{acme.org}/tickets", **{k: v for k, v in query.items() if v})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def many(acme: Owner, word: str, count: int) -> list[dict[str, Any]]:
    """Make tickets of which several have the same value of each column, and some have none."""
    return [
        ticket(
            acme,
            f"{word}-{n}",
            priority=1 + n % 3,
            subject="Zz\U0001f600é a"[n % 6],
            due=None if n % 4 == 0 else f"2026-01-0{1 + n % 2}T00:00:00.{n % 3}Z",
        )
        for n in range(count)
    ]


@pytest.mark.parametrize("sort", SORTS)
def test_a_walk_meets_what_stays_exactly_once_whatever_comes_and_goes(
    acme: Owner, sort: str
) -> None:
    staying = {made["id"] for made in many(acme, "ST", 12)}
    passing = many(acme, "PA", 8)
    seen: list[dict[str, Any]] = []
    cursor = None
    for n in range(30):
        found = page(acme, limit=3, sort=sort, cursor=cursor)
        seen += found["items"]
        # The row that the cursor stands on goes as well, when it is not one that stays.
        gone = [t for t in passing if t["id"] == found["items"][-1]["id"]] or passing[:1]
        for one in gone:
            passing.remove(one)
            acme.http.delete(f"/orgs/{acme.org}/tickets/{one['id']}")
        ticket(acme, f"NE-{n}", priority=1 + n % 3, due=None if n % 2 else "2026-01-01T12:00:00Z")
        cursor = found.get("next")
        if cursor is None:
            break
    assert cursor is None
    met = [row["id"] for row in seen]
    assert sorted(id for id in met if id in staying) == sorted(staying)
    assert len(set(met)) == len(met)
    _is_sorted(seen, sort)


def _is_sorted(rows: list[dict[str, Any]], sort: str) -> None:
    name = sort.removeprefix("-")
    if name in ("priority", "due", "created_at"):  # text is sorted as the database collates it
        keys = [(row[name] is None, row[name] or 0, row["id"]) for row in rows]
        assert keys == sorted(keys, reverse=sort.startswith("-"))


@pytest.mark.parametrize("sort", SORTS)
def test_every_size_of_page_shows_the_same_list(acme: Owner, sort: str) -> None:
    many(acme, "TI", 7)
    whole = page(acme, limit=100, sort=sort)["items"]
    for limit in (1, 2, 7):
        walked: list[dict[str, Any]] = []
        cursor = None
        while True:
            found = page(acme, limit=limit, sort=sort, cursor=cursor)
            walked += found["items"]
            cursor = found.get("next")
            if cursor is None:
                break
        assert walked == whole


def test_filters_narrow_a_list_and_its_walk(acme: Owner) -> None:
    many(acme, "FI", 6)
    ticket(acme, "FC-1", status="closed", priority=2)
    assert [t["reference"] for t in page(acme, status="closed")["items"]] == ["FC-1"]
    assert page(acme, status="closed", priority=1) == {"items": []}
    first = page(acme, priority=2, sort="-priority", limit=2)
    second = page(acme, priority=2, sort="-priority", limit=2, cursor=first["next"])
    found = [t["reference"] for t in first["items"] + second["items"]]
    assert found == ["FC-1", "FI-4", "FI-1"]


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ({"sort": "body"}, "/sort"),
        ({"sort": "id desc; drop table tickets"}, "/sort"),
        ({"subject": "x"}, "/subject"),
        ({"priority": "1 or 1=1"}, "/priority"),
        ({"cursor": "A" * 23}, "/cursor"),
        ({"cursor": "A" * 22, "sort": "priority"}, "/cursor"),
        ({"cursor": "e30", "sort": "priority"}, "/cursor"),
        ({"cursor": "WyJwcmlvcml0eSIsMSwyXQ" + "A" * 10, "sort": "priority"}, "/cursor"),
    ],
)
def test_what_is_not_declared_and_what_no_page_gave_is_refused(
    acme: Owner, query: dict[str, str], pointer: str
) -> None:
    answer = acme.get(f"/orgs/{acme.org}/tickets", **query)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid-request")
    assert [fault["pointer"] for fault in answer.json()["errors"]] == [pointer]


def test_a_cursor_goes_on_in_its_own_order_and_in_no_other(acme: Owner) -> None:
    many(acme, "OR", 3)
    first = page(acme, sort="-priority", limit=1)
    follows = page(acme, sort="-priority", cursor=first["next"])
    assert page(acme, cursor=first["next"]) == follows
    for sort in ("priority", "subject"):
        query = {"cursor": first["next"], "sort": sort}
        assert acme.get(f"/orgs/{acme.org}/tickets", **query).status_code == 400


def test_a_cursor_whose_value_was_forged_is_refused(acme: Owner) -> None:
    many(acme, "VA", 2)
    forged = "WyJwcmlvcml0eSIsIngiLCIwMTlhYjJmNS0wM2Q4LTdjNmItOGE0MS02ZTBmOWQyYzdiMzUiXQ"
    answer = acme.get(f"/orgs/{acme.org}/tickets", sort="priority", cursor=forged)
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["pointer"] == "/cursor"
