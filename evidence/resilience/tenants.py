"""Tenants of a service under test, and the requests that they make."""

import json
from dataclasses import dataclass

from evidence.harness.processes import HarnessError
from evidence.resilience.load import Reply, Request, once


@dataclass(frozen=True)
class Tenant:
    """A guest with an organization, and the requests that it makes."""

    token: str
    org: str

    def create(self, name: str, **headers: str) -> Request:
        """Ask for a new project; headers by their names with `_` for `-`."""
        fields = tuple((key.replace("_", "-"), value) for key, value in headers.items())
        body = json.dumps({"name": name}).encode()
        return Request("POST", f"/orgs/{self.org}/projects", self.token, body, fields)

    def list(self, limit: int = 5) -> Request:
        return Request("GET", f"/orgs/{self.org}/projects?limit={limit}", self.token)

    def get(self, project: str) -> Request:
        return Request("GET", f"/orgs/{self.org}/projects/{project}", self.token)

    def delete(self, project: str) -> Request:
        return Request("DELETE", f"/orgs/{self.org}/projects/{project}", self.token)


def tenant(port: int, name: str = "Acme") -> Tenant:
    """Sign in as a new guest and make its organization. Raises `StageError`."""
    token = created(once(port, Request("POST", "/auth/guest")))["access_token"]
    body = json.dumps({"name": name}).encode()
    return Tenant(token, created(once(port, Request("POST", "/orgs", token, body)))["id"])


def created(reply: Reply) -> dict[str, str]:
    """Return what was created. Raises `StageError` when nothing was."""
    if reply.status != 201:
        raise HarnessError(f"{reply.request.path}: {reply.status} {reply.body[:200].decode()}")
    return parsed(reply)


def parsed(reply: Reply) -> dict[str, str]:
    body: dict[str, str] = json.loads(reply.body)
    return body
