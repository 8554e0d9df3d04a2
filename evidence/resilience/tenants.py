"""Tenants of the service under test, and their requests."""

import json
import secrets
from dataclasses import dataclass

from evidence.harness.processes import HarnessError
from evidence.resilience.load import Request, Response, Stream, send_once


@dataclass(frozen=True)
class Tenant:
    """A guest with an organization. Its methods return requests; they send nothing."""

    token: str
    org: str

    def create(self, name: str, **headers: str) -> Request:
        """Return a request for a new project. Header names are written with `_` for `-`."""
        fields = tuple((key.replace("_", "-"), value) for key, value in headers.items())
        body = json.dumps({"name": name}).encode()
        return Request("POST", f"/orgs/{self.org}/projects", self.token, body, fields)

    def list(self, limit: int = 5) -> Request:
        return Request("GET", f"/orgs/{self.org}/projects?limit={limit}", self.token)

    def get(self, project: str) -> Request:
        return Request("GET", f"/orgs/{self.org}/projects/{project}", self.token)

    def delete(self, project: str) -> Request:
        return Request("DELETE", f"/orgs/{self.org}/projects/{project}", self.token)


def create_tenant(port: int, name: str = "Acme") -> Tenant:
    """Sign in as a new guest and create an organization. Raises `HarnessError`."""
    signed_in = created_resource(send_once(port, Request("POST", "/auth/guest")))
    token, body = signed_in["access_token"], json.dumps({"name": name}).encode()
    organization = created_resource(send_once(port, Request("POST", "/orgs", token, body)))
    return Tenant(token, organization["id"])


def keyed_writes(tenant: Tenant, clients: int = 4) -> Stream:
    """Return a stream of new projects, each with its own Idempotency-Key.

    The service may retry such a write, so an outage must not make it fail.
    """
    run = secrets.token_hex(8)
    return Stream(
        "keyed", lambda n: tenant.create(f"{run} {n}", Idempotency_Key=f"{run}-{n}"), clients, 0.01
    )


def created_resource(response: Response) -> dict[str, str]:
    """Return the body of a 201. Raises `HarnessError` for any other status."""
    if response.status != 201:
        body = response.body[:200].decode(errors="replace")
        raise HarnessError(f"{response.request.path}: {response.status} {body}")
    return parse_body(response)


def parse_body(response: Response) -> dict[str, str]:
    """Return a JSON body."""
    body: dict[str, str] = json.loads(response.body)
    return body
