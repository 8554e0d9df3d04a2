"""Two tenants must never see each other, in any operation on tenant data."""

import psycopg
import pytest

from db import ids
from tests.platform.fix_postgres import Database
from tests.platform.fix_service import Service, Tenant, tenant


def test_a_guest_creates_an_organization_and_projects_with_one_token(acme: Tenant) -> None:
    apollo = acme.project("Apollo")

    assert acme.get(f"/orgs/{acme.org}").json()["name"] == "Acme"
    assert acme.get(f"/orgs/{acme.org}/projects/{apollo['id']}").json() == apollo
    assert acme.get(f"/orgs/{acme.org}/projects").json() == {"items": [apollo]}


def test_two_guests_with_the_same_number_do_not_see_each_other(
    service: Service, database: Database
) -> None:
    """A sequence repeats numbers after a restore, or after failing over to a lagging standby."""
    with psycopg.connect(database.superuser_url) as superuser:
        position = superuser.execute("select last_value, is_called from guest_number").fetchone()
        with tenant(service, "First") as first:
            superuser.execute("select setval('guest_number', %s, %s)", position)
            with tenant(service, "Second") as second:
                assert first.get(f"/orgs/{second.org}").status_code == 404
                exchange = first.http.post("/auth/token", json={"org_id": second.org})
                assert exchange.status_code == 404


def test_another_tenants_project_appears_not_to_exist(acme: Tenant, rival: Tenant) -> None:
    project = acme.project("Apollo")
    for path in (
        f"/orgs/{acme.org}/projects/{project['id']}",
        f"/orgs/{rival.org}/projects/{project['id']}",
    ):
        assert rival.get(path).status_code == 404
        assert rival.http.delete(path).status_code == 404
    assert acme.get(f"/orgs/{acme.org}/projects").json()["items"] == [project]


@pytest.mark.parametrize("path", ["/orgs/{}", "/orgs/{}/projects", "/orgs/{}/projects/{}"])
@pytest.mark.parametrize("method", ["GET", "DELETE", "POST"])
def test_a_foreign_id_gets_the_same_response_as_a_nonexistent_one(
    acme: Tenant, rival: Tenant, method: str, path: str
) -> None:
    project = acme.project("Apollo")["id"]
    body = {"name": "Apollo"} if method == "POST" else None

    foreign = rival.http.request(method, path.format(acme.org, project), json=body)
    nonexistent = rival.http.request(method, path.format(ids.new(), ids.new()), json=body)

    assert foreign.status_code == nonexistent.status_code
    assert foreign.status_code in (404, 405)
    assert _without_request_id(foreign.json()) == _without_request_id(nonexistent.json())
    assert acme.get(f"/orgs/{acme.org}").status_code == 200


def test_names_are_unique_within_a_tenant_only(acme: Tenant, rival: Tenant) -> None:
    acme.project("Apollo")
    rival.project("Apollo")
    duplicate = acme.http.post(f"/orgs/{acme.org}/projects", json={"name": "Apollo"})
    assert duplicate.status_code == 409
    assert duplicate.json()["code"] == "conflict"


def test_each_tenant_lists_only_its_own_organizations(acme: Tenant, rival: Tenant) -> None:
    assert [org["id"] for org in acme.get("/orgs").json()["items"]] == [acme.org]
    assert [org["id"] for org in rival.get("/orgs").json()["items"]] == [rival.org]


def test_a_second_organization_needs_an_exchanged_token(acme: Tenant) -> None:
    second = acme.post("/orgs", name="Second")["id"]
    assert second != acme.org
    assert acme.get(f"/orgs/{second}/projects").status_code == 404

    token = acme.http.post("/auth/token", json={"org_id": second}).json()["access_token"]
    bearer = {"Authorization": f"Bearer {token}"}
    created = acme.http.post(f"/orgs/{second}/projects", json={"name": "X"}, headers=bearer)
    assert created.status_code == 201
    assert acme.http.get(f"/orgs/{acme.org}/projects", headers=bearer).status_code == 404


def test_a_token_cannot_be_exchanged_for_a_foreign_organization(
    acme: Tenant, rival: Tenant
) -> None:
    foreign = rival.http.post("/auth/token", json={"org_id": acme.org})
    nonexistent = rival.http.post("/auth/token", json={"org_id": ids.new()})
    assert foreign.status_code == nonexistent.status_code == 404
    assert _without_request_id(foreign.json()) == _without_request_id(nonexistent.json())


def test_deleting_an_organization_deletes_its_projects_and_retires_its_id(acme: Tenant) -> None:
    acme.project("Apollo")
    assert acme.http.delete(f"/orgs/{acme.org}").status_code == 204
    assert acme.get(f"/orgs/{acme.org}/projects").status_code == 404

    recreated = acme.post("/orgs", name="Acme")
    assert recreated["id"] != acme.org
    assert acme.http.post(f"/orgs/{acme.org}/projects", json={"name": "X"}).status_code == 404


def test_paging_returns_every_unchanged_project_exactly_once(acme: Tenant) -> None:
    kept = [acme.project(f"kept {n}")["id"] for n in range(12)]
    to_delete = [acme.project(f"deleted {n}")["id"] for n in range(4)]
    seen, cursor = [], None
    while True:
        page = acme.get(
            f"/orgs/{acme.org}/projects", limit=5, **({"cursor": cursor} if cursor else {})
        ).json()
        seen += [item["id"] for item in page["items"]]
        acme.project(f"added {len(seen)}")
        if to_delete:
            acme.http.delete(f"/orgs/{acme.org}/projects/{to_delete.pop()}")
        cursor = page.get("next")
        if not cursor or len(seen) > 40:
            break
    # Ids created in the same millisecond have a random order.
    assert [id for id in seen if id in kept] == sorted(kept)


def test_a_cursor_of_another_tenant_reveals_nothing(acme: Tenant, rival: Tenant) -> None:
    for n in range(3):
        acme.project(f"P{n}")
    own = rival.project("Own")
    cursor = acme.get(f"/orgs/{acme.org}/projects", limit=1).json()["next"]
    page = rival.get(f"/orgs/{rival.org}/projects", cursor=cursor).json()
    assert page["items"] in ([], [own])


def _without_request_id(problem: dict[str, object]) -> dict[str, object]:
    return {k: v for k, v in problem.items() if k not in ("request_id", "instance")}
