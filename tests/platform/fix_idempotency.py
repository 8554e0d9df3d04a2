"""Requests with an Idempotency-Key, and the responses that the service stores for them."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import psycopg

from tests.platform.fix_service import Service, Tenant, tenant

REPLAYED = "idempotency-replayed"


def new_key() -> str:
    return str(uuid.uuid4())


def post(sender: Tenant, path: str, key: str, **body: Any) -> httpx.Response:
    """Send a POST with an Idempotency-Key."""
    return sender.http.post(path, json=body, headers={"Idempotency-Key": key})


def projects(of: Tenant) -> str:
    return f"/orgs/{of.org}/projects"


def project_names(of: Tenant) -> list[str]:
    items = of.get(projects(of), limit=100).json()["items"]
    return [project["name"] for project in items]


def is_replay(first: httpx.Response, second: httpx.Response) -> bool:
    """Return whether the second response repeats the first; fail unless it is marked so."""
    assert REPLAYED not in first.headers
    assert second.headers[REPLAYED] == "true"
    names = ("location", "content-type", "content-length")
    return (first.status_code, first.content, [first.headers[name] for name in names]) == (
        second.status_code,
        second.content,
        [second.headers[name] for name in names],
    )


def count_stored(superuser: psycopg.Connection[Any], org_id: str) -> int:
    """Return how many responses are stored for an organization."""
    query = "select count(*) from idempotency_keys where org_id = %s"
    row = superuser.execute(query, (org_id,)).fetchone()
    return int(row[0]) if row else 0


@contextmanager
def guest(service: Service) -> Iterator[Tenant]:
    """Yield a guest whose token is bound to the organization `org`, which does not exist yet."""
    with tenant(service, "Before") as created:
        signed_in = created.http.post("/auth/guest").json()
        created.http.headers["Authorization"] = f"Bearer {signed_in['access_token']}"
        created.subject, created.org = signed_in["subject"], signed_in["org_id"]
        yield created
