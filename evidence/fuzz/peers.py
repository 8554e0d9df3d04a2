"""Guests that own organizations and resources, so that generated requests hit existing ones."""

import re
from collections.abc import Mapping, Set
from typing import Any

import httpx

from openapi.contract import Contract, Operation

ORGS = "/orgs"
ABSENT_ID = "00000000-0000-7000-8000-000000000000"
PARAMETER = re.compile(r"\{(\w+)\}")


class Peer:
    """One guest: a token per organization, and the ids of its existing resources."""

    def __init__(self, http: httpx.Client, contract: Contract) -> None:
        """Sign in and create a first organization, the home."""
        self._http = http
        self._creators = {o.path: o for o in contract.operations.values() if o.method == "post"}
        self._references = references(contract)
        self._count = 0
        self._existing: dict[str, list[str]] = {}  # ids by collection
        self.known: set[str] = set()
        signed_in = self._expect(self._http.post("/auth/guest"), 201)
        self.home: str = signed_in["org_id"]
        self._tokens: dict[str, str] = {self.home: signed_in["access_token"]}
        self._create(ORGS, ORGS)

    def token(self, org_id: str | None) -> str:
        """Return a token for `org_id` if the peer is a member, else for its home."""
        orgs = self._existing.get(ORGS, [])
        if self.home not in orgs:
            self.home = orgs[0] if orgs else self._create(ORGS, ORGS)
        org = org_id if org_id in self._existing[ORGS] else self.home
        if org not in self._tokens:
            exchange = {"org_id": org}
            response = self._http.post("/auth/token", json=exchange, headers=self._any_token())
            self._tokens[org] = self._expect(response, 200)["access_token"]
        return self._tokens[org]

    def owns(self, token: str) -> bool:
        """Return whether the token is one of this peer."""
        return token in self._tokens.values()

    def add(self, collection: str, id: str) -> None:
        """Record a resource that was created."""
        self.known.add(id)
        self._existing.setdefault(collection, []).append(id)

    def remove(self, path: str) -> None:
        """Record a deletion: of the resource, of everything below it, and of referencing rows."""
        collection, _, id = path.rpartition("/")
        if id in self._existing.get(collection, []):
            self._existing[collection].remove(id)
        org = "/".join(path.split("/")[:3])
        referencing = {
            f"{org}/{table}"
            for table, columns in self._references.items()
            if collection in {f"{org}/{row.split('/')[3]}" for row in columns.values()}
        }
        for other in list(self._existing):
            if other.startswith(f"{path}/") or other in referencing:
                del self._existing[other]

    def existing(
        self, template: str, values: Mapping[str, Any], *, keep_known: bool, fresh: Set[str]
    ) -> dict[str, str]:
        """Return the path parameters, with ids of absent resources replaced by existing ones.

        With `keep_known`, an id stays that ever existed. For a collection in `fresh`, a new
        member is created, which the request may then delete.
        """
        chosen: dict[str, str] = {}
        for name in PARAMETER.findall(template):
            prefix = template.partition(f"/{{{name}}}")[0]
            collection = PARAMETER.sub(lambda match: chosen[match[1]], prefix)
            value = str(values.get(name, "")).lower()
            is_kept = value in self._existing.get(collection, []) or (
                keep_known and value in self.known
            )
            if not is_kept and prefix in self._creators:
                value = self._member(prefix, collection, new=prefix in fresh)
            chosen[name] = value
        return chosen

    def fill_references(
        self, operation: Operation, org_id: str, body: dict[str, Any], *, keep_known: bool
    ) -> None:
        """Replace references of a body to absent rows by references to existing rows."""
        for column, template in self._references.get(operation.tag, {}).items():
            if body.get(column) is not None:
                org_parameter, row_parameter = PARAMETER.findall(template)
                values = {org_parameter: org_id, row_parameter: body[column]}
                ids = self.existing(template, values, keep_known=keep_known, fresh=frozenset())
                body[column] = ids[row_parameter]

    def _member(self, template: str, collection: str, *, new: bool) -> str:
        """Return the id of a member of the collection, creating one when necessary."""
        if template == ORGS and not new:
            self.token(None)
            return self.home
        ids = self._existing.get(collection, [])
        return ids[-1] if ids and not new else self._create(template, collection)

    def _create(self, template: str, collection: str) -> str:
        """Create a member and return its id; `ABSENT_ID` below a foreign organization."""
        bearer = self._any_token()
        if template != ORGS:
            bearer = {"Authorization": f"Bearer {self.token(collection.split('/')[2])}"}
        for _ in range(3):
            self._count += 1
            body = example(self._creators[template], f" {self._count}")
            if template != ORGS and isinstance(body, dict):
                org_id = collection.split("/")[2]
                self.fill_references(self._creators[template], org_id, body, keep_known=False)
            response = self._http.post(collection, json=body, headers=bearer)
            if response.status_code != 409:
                break
        if response.status_code == 404:
            return ABSENT_ID
        if response.status_code == 409:  # every value of a unique key is taken
            return (self._existing.get(collection) or [ABSENT_ID])[-1]
        id: str = self._expect(response, 201)["id"]
        self.add(collection, id)
        return id

    def _any_token(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {next(iter(self._tokens.values()))}"}

    def _expect(self, response: httpx.Response, status: int) -> Any:
        assert response.status_code == status, f"{response.request.url}: {response.text}"
        return response.json()


def references(contract: Contract) -> dict[str, dict[str, str]]:
    """Return {table: {column: path of the referenced row}} for rows right below an organization."""
    rows = {
        o.tag: o.path
        for o in contract.operations.values()
        if o.path.endswith("}") and len(PARAMETER.findall(o.path)) == 2
    }
    return {
        table.name: {r.column: rows[r.table] for r in table.references if r.table in rows}
        for table in contract.tables.values()
    }


def example(operation: Operation, suffix: str = "") -> Any:
    """Return the example body of an operation, with `suffix` appended to texts where it fits."""
    if operation.body is None:
        return None
    content = next(iter(operation.body["content"].values()))
    body = dict(content["example"])
    for name, schema in content["schema"].get("properties", {}).items():
        if name in body and "pattern" in schema:
            texts = (f"{body[name]}{suffix}", f"{body[name]}{suffix.strip()}")
            short = (text for text in texts if len(text) <= schema["maxLength"])
            valid = (text for text in short if re.search(schema["pattern"], text))
            body[name] = next(valid, body[name])
    return body
