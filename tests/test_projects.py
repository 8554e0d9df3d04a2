"""Projects, the sample resource. Tests of your own resources go beside this file.

The fixtures `acme` and `rival` are two tenants of a running service; `acme.http` is a client that
checks every response against the contract.
"""

from tests.platform.fix_service import Tenant


def test_project_names_are_unique_within_an_organization(acme: Tenant, rival: Tenant) -> None:
    acme.project("Apollo")
    response = acme.http.post(f"/orgs/{acme.org}/projects", json={"name": "Apollo"})
    assert response.status_code == 409
    assert rival.project("Apollo")["org_id"] == rival.org


def test_another_tenants_project_does_not_exist(acme: Tenant, rival: Tenant) -> None:
    path = f"/orgs/{acme.org}/projects/{acme.project('Apollo')['id']}"
    assert acme.get(path).status_code == 200
    assert rival.get(path).status_code == 404
    assert rival.http.delete(path).status_code == 404
