"""Uses the generated client as a user would: sign in, create, list, and handle errors.

tests/platform/test_client.py runs it with the service's URL, and checks its types with mypy.
"""

import sys
from uuid import uuid4

from covenant_client import AuthenticatedClient, Client
from covenant_client.api.auth import auth_guest
from covenant_client.api.orgs import orgs_create
from covenant_client.api.projects import (
    projects_create,
    projects_delete,
    projects_get,
    projects_list,
)
from covenant_client.models import (
    Organization,
    OrganizationRequest,
    Problem,
    Project,
    ProjectPage,
    ProjectRequest,
    Token,
)


def sign_in(url: str) -> AuthenticatedClient:
    token = auth_guest.sync(client=Client(base_url=url))
    assert isinstance(token, Token)
    return AuthenticatedClient(base_url=url, token=token.access_token)


def main(url: str) -> None:
    with sign_in(url) as acme, sign_in(url) as rival:
        org = orgs_create.sync(client=acme, body=OrganizationRequest(name="Acme"))
        assert isinstance(org, Organization)
        assert orgs_create.sync(client=rival, body=OrganizationRequest(name="Rival"))

        project = projects_create.sync(org.id, client=acme, body=ProjectRequest(name="Apollo"))
        assert isinstance(project, Project)
        assert project.org_id == org.id
        assert project.created_at.utcoffset() is not None
        page = projects_list.sync(org.id, client=acme, limit=1)
        assert isinstance(page, ProjectPage)
        assert page.items == [project]

        duplicate = projects_create.sync(org.id, client=acme, body=ProjectRequest(name="Apollo"))
        assert isinstance(duplicate, Problem)
        assert duplicate.code == "conflict"
        foreign = projects_get.sync(org.id, project.id, client=rival)
        missing = projects_get.sync(org.id, uuid4(), client=acme)
        assert isinstance(foreign, Problem)
        assert isinstance(missing, Problem)
        assert foreign.code == missing.code == "not-found"
        assert projects_delete.sync_detailed(org.id, project.id, client=acme).status_code == 204


if __name__ == "__main__":
    main(sys.argv[1])
