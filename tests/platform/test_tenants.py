"""Two tenants who must never see each other, in every operation on tenant data."""

import psycopg
import pytest

from db import ids
from tests.platform.fix_postgres import Database
from tests.platform.fix_service import Service, Tenant, tenant


def test_a_guest_makes_an_organization_and_projects_with_one_token(acme: Tenant) -> None:
    apollo = acme.project("Apollo")

    assert acme.get(f"/orgs/{acme.org}").json()["name"] == "Acme"
    assert acme.get(f"/orgs/{acme.org}/projects/{apollo['id']}").json() == apollo
    assert acme.get(f"/orgs/{acme.org}/projects").json() == {"items": [apollo]}


def test_a_guest_whose_number_is_given_again_sees_nothing_of_the_other(
    service: Service, database: Database
) -> None:
    """As after a restore, or behind a standby that had not seen the last numbers."""
    with psycopg.connect(database.superuser_url) as superuser:
        asked = superuser.execute("select last_value, is_called from guest_number").fetchone()
        with tenant(service, "First") as first:
            superuser.execute("select setval('guest_number', %s, %s)", asked)
            with tenant(service, "Second") as second:
                assert first.get(f"/orgs/{second.org}").status_code == 404
                exchanged = first.http.post("/auth/token", json={"org_id": second.org})
                assert exchanged.status_code == 404


def test_another_tenants_project_does_not_exist(acme: Tenant, rival: Tenant) -> None:
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
def test_a_foreign_id_answers_as_one_that_does_not_exist(
    acme: Tenant, rival: Tenant, method: str, path: str
) -> None:
    project = acme.project("Apollo")["id"]
    body = {"name": "Apollo"} if method == "POST" else None

    foreign = rival.http.request(method, path.format(acme.org, project), json=body)
    absent = rival.http.request(method, path.format(ids.new(), ids.new()), json=body)

    assert foreign.status_code == absent.status_code
    assert foreign.status_code in (404, 405)
    assert _without_request(foreign.json()) == _without_request(absent.json())
    assert acme.get(f"/orgs/{acme.org}").status_code == 200


def test_names_are_unique_within_a_tenant_only(acme: Tenant, rival: Tenant) -> None:
    acme.project("Apollo")
    rival.project("Apollo")
    again = acme.http.post(f"/orgs/{acme.org}/projects", json={"name": "Apollo"})
    assert again.status_code == 409
    assert again.json()["code"] == "conflict"


def test_each_lists_its_own_organizations_only(acme: Tenant, rival: Tenant) -> None:
    assert [org["id"] for org in acme.get("/orgs").json()["items"]] == [acme.org]
    assert [org["id"] for org in rival.get("/orgs").json()["items"]] == [rival.org]


def test_a_later_organization_needs_an_exchanged_token(acme: Tenant) -> None:
    second = acme.post("/orgs", name="Second")["id"]
    assert second != acme.org
    assert acme.get(f"/orgs/{second}/projects").status_code == 404

    exchanged = acme.http.post("/auth/token", json={"org_id": second}).json()
    bearer = {"Authorization": f"Bearer {exchanged['access_token']}"}
    made = acme.http.post(f"/orgs/{second}/projects", json={"name": "X"}, headers=bearer)
    assert made.status_code == 201
    assert acme.http.get(f"/orgs/{acme.org}/projects", headers=bearer).status_code == 404


def test_a_token_is_not_exchanged_for_a_foreign_organization(acme: Tenant, rival: Tenant) -> None:
    foreign = rival.http.post("/auth/token", json={"org_id": acme.org})
    absent = rival.http.post("/auth/token", json={"org_id": ids.new()})
    assert foreign.status_code == absent.status_code == 404
    assert _without_request(foreign.json()) == _without_request(absent.json())


def test_a_deleted_organization_takes_its_projects_and_its_id_with_it(acme: Tenant) -> None:
    acme.project("Apollo")
    assert acme.http.delete(f"/orgs/{acme.org}").status_code == 204
    assert acme.get(f"/orgs/{acme.org}/projects").status_code == 404

    again = acme.post("/orgs", name="Again")
    assert again["id"] != acme.org
    assert acme.http.post(f"/orgs/{acme.org}/projects", json={"name": "X"}).status_code == 404


def test_a_walk_meets_every_project_that_stays_exactly_once(acme: Tenant) -> None:
    staying = [acme.project(f"stays {n}")["id"] for n in range(12)]
    passing = [acme.project(f"goes {n}")["id"] for n in range(4)]
    seen, cursor = [], None
    while True:
        page = acme.get(
            f"/orgs/{acme.org}/projects", limit=5, **({"cursor": cursor} if cursor else {})
        ).json()
        seen += [item["id"] for item in page["items"]]
        acme.project(f"comes {len(seen)}")
        if passing:
            acme.http.delete(f"/orgs/{acme.org}/projects/{passing.pop()}")
        cursor = page.get("next")
        if not cursor or len(seen) > 40:
            break
    # Ids of one millisecond are in no order of their making.
    assert [id for id in seen if id in staying] == sorted(staying)


def test_a_cursor_of_another_tenant_opens_nothing(acme: Tenant, rival: Tenant) -> None:
    for n in range(3):
        acme.project(f"P{n}")
    own = rival.project("Own")
    cursor = acme.get(f"/orgs/{acme.org}/projects", limit=1).json()["next"]
    page = rival.get(f"/orgs/{rival.org}/projects", cursor=cursor).json()
    assert page["items"] in ([], [own])


def _without_request(problem: dict[str, object]) -> dict[str, object]:
    return {k: v for k, v in problem.items() if k not in ("request_id", "instance")}
