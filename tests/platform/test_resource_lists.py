"""Lists of rows, page by page: filtered, sorted, and while rows are created and deleted."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.platform.fix_resources import ResourceService, ResourceTenant, resource_tenant

SORTS = ["", "priority", "-priority", "created_at", "-created_at", "subject", "due", "-due"]


@pytest.fixture
def acme(ticket_desk: ResourceService) -> Iterator[ResourceTenant]:
    with resource_tenant(ticket_desk, "Acme") as created:
        yield created


def create_ticket(acme: ResourceTenant, reference: str, **columns: Any) -> dict[str, Any]:
    create = acme.contract.operations["tickets.create"]
    body = acme.body(create) | {"reference": reference, **columns}
    return acme.post(f"/orgs/{acme.org}/tickets", **body)


def create_tickets(acme: ResourceTenant, prefix: str, count: int) -> list[dict[str, Any]]:
    """Create tickets some of which share a value of each column or have none."""
    return [
        create_ticket(
            acme,
            f"{prefix}-{n}",
            priority=1 + n % 3,
            subject="Zz\U0001f600é a"[n % 6],
            due=None if n % 4 == 0 else f"2026-01-0{1 + n % 2}T00:00:00.{n % 3}Z",
        )
        for n in range(count)
    ]


def get_page(acme: ResourceTenant, **query: Any) -> dict[str, Any]:
    response = acme.get(f"/orgs/{acme.org}/tickets", **{k: v for k, v in query.items() if v})
    assert response.status_code == 200, response.text
    page: dict[str, Any] = response.json()
    return page


@pytest.mark.parametrize("sort", SORTS)
def test_paging_returns_each_lasting_row_exactly_once_while_others_come_and_go(
    acme: ResourceTenant, sort: str
) -> None:
    lasting = {ticket["id"] for ticket in create_tickets(acme, "LA", 12)}
    temporary = create_tickets(acme, "TE", 8)
    listed: list[dict[str, Any]] = []
    cursor = None
    for n in range(30):
        page = get_page(acme, limit=3, sort=sort, cursor=cursor)
        listed += page["items"]
        # Delete the row that the cursor points to when it is a temporary one.
        deleted = [t for t in temporary if t["id"] == page["items"][-1]["id"]] or temporary[:1]
        for ticket in deleted:
            temporary.remove(ticket)
            acme.http.delete(f"/orgs/{acme.org}/tickets/{ticket['id']}")
        due = None if n % 2 else "2026-01-01T12:00:00Z"
        create_ticket(acme, f"NE-{n}", priority=1 + n % 3, due=due)
        cursor = page.get("next")
        if cursor is None:
            break
    assert cursor is None
    listed_ids = [row["id"] for row in listed]
    assert sorted(id for id in listed_ids if id in lasting) == sorted(lasting)
    assert len(set(listed_ids)) == len(listed_ids)
    _assert_sorted(listed, sort)


def _assert_sorted(rows: list[dict[str, Any]], sort: str) -> None:
    name = sort.removeprefix("-")
    if name in ("priority", "due", "created_at"):  # text is sorted by the database's collation
        keys = [(row[name] is None, row[name] or 0, row["id"]) for row in rows]
        assert keys == sorted(keys, reverse=sort.startswith("-"))


@pytest.mark.parametrize("sort", SORTS)
def test_every_page_size_returns_the_same_list(acme: ResourceTenant, sort: str) -> None:
    create_tickets(acme, "TI", 7)
    complete = get_page(acme, limit=100, sort=sort)["items"]
    for limit in (1, 2, 7):
        listed: list[dict[str, Any]] = []
        cursor = None
        while True:
            page = get_page(acme, limit=limit, sort=sort, cursor=cursor)
            listed += page["items"]
            cursor = page.get("next")
            if cursor is None:
                break
        assert listed == complete


def test_filters_apply_to_every_page_of_a_list(acme: ResourceTenant) -> None:
    create_tickets(acme, "FI", 6)
    create_ticket(acme, "FC-1", status="closed", priority=2)
    assert [t["reference"] for t in get_page(acme, status="closed")["items"]] == ["FC-1"]
    assert get_page(acme, status="closed", priority=1) == {"items": []}
    first = get_page(acme, priority=2, sort="-priority", limit=2)
    second = get_page(acme, priority=2, sort="-priority", limit=2, cursor=first["next"])
    references = [t["reference"] for t in first["items"] + second["items"]]
    assert references == ["FC-1", "FI-4", "FI-1"]


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
def test_an_undeclared_parameter_and_an_unknown_cursor_are_rejected(
    acme: ResourceTenant, query: dict[str, str], pointer: str
) -> None:
    response = acme.get(f"/orgs/{acme.org}/tickets", **query)
    assert (response.status_code, response.json()["code"]) == (400, "invalid-request")
    assert [error["pointer"] for error in response.json()["errors"]] == [pointer]


def test_a_cursor_continues_in_its_own_order_only(acme: ResourceTenant) -> None:
    create_tickets(acme, "OR", 3)
    cursor = get_page(acme, sort="-priority", limit=1)["next"]
    second = get_page(acme, sort="-priority", cursor=cursor)
    assert get_page(acme, cursor=cursor) == second
    for sort in ("priority", "subject"):
        query = {"cursor": cursor, "sort": sort}
        assert acme.get(f"/orgs/{acme.org}/tickets", **query).status_code == 400


def test_a_cursor_with_a_forged_value_is_rejected(acme: ResourceTenant) -> None:
    create_tickets(acme, "VA", 2)
    forged = "WyJwcmlvcml0eSIsIngiLCIwMTlhYjJmNS0wM2Q4LTdjNmItOGE0MS02ZTBmOWQyYzdiMzUiXQ"
    response = acme.get(f"/orgs/{acme.org}/tickets", sort="priority", cursor=forged)
    assert response.status_code == 400
    assert response.json()["errors"][0]["pointer"] == "/cursor"
