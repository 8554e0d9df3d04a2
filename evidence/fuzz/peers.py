"""Peers: guests who keep organizations and what is in them, so that generated requests hit them."""

import re
from collections.abc import Mapping, Set
from typing import Any

import httpx

from openapi.contract import Contract, Operation

ORGS = "/orgs"
NOWHERE = "00000000-0000-7000-8000-000000000000"
PARAMETER = re.compile(r"\{(\w+)\}")


class Peer:
    """One guest: its tokens by organization, and what it has made and not deleted."""

    def __init__(self, http: httpx.Client, contract: Contract) -> None:
        """Sign in and make a first organization, its home."""
        self._http = http
        self._creators = {o.path: o for o in contract.operations.values() if o.method == "post"}
        self._references = references(contract)
        self._made = 0
        self._alive: dict[str, list[str]] = {}
        self.known: set[str] = set()
        signed_in = self._expect(self._http.post("/auth/guest"), 201)
        self.home: str = signed_in["org_id"]
        self._tokens: dict[str, str] = {self.home: signed_in["access_token"]}
        self._create(ORGS, ORGS)

    def token(self, org_id: str | None) -> str:
        """Return a token bound to `org_id` where the peer is a member, else to its home."""
        orgs = self._alive.get(ORGS, [])
        if self.home not in orgs:
            self.home = orgs[0] if orgs else self._create(ORGS, ORGS)
        wanted = org_id if org_id in self._alive[ORGS] else self.home
        if wanted not in self._tokens:
            exchange = {"org_id": wanted}
            answer = self._http.post("/auth/token", json=exchange, headers=self._any_token())
            self._tokens[wanted] = self._expect(answer, 200)["access_token"]
        return self._tokens[wanted]

    def owns(self, token: str) -> bool:
        return token in self._tokens.values()

    def made(self, collection: str, id: str) -> None:
        self.known.add(id)
        self._alive.setdefault(collection, []).append(id)

    def deleted(self, path: str) -> None:
        """Forget what a path named, everything below it, and what may have gone with it."""
        collection, _, id = path.rpartition("/")
        if id in self._alive.get(collection, []):
            self._alive[collection].remove(id)
        org = "/".join(path.split("/")[:3])
        gone = {
            f"{org}/{table}"
            for table, columns in self._references.items()
            if collection in {f"{org}/{row.split('/')[3]}" for row in columns.values()}
        }
        for other in list(self._alive):
            if other.startswith(f"{path}/") or other in gone:
                del self._alive[other]

    def existing(
        self, template: str, values: Mapping[str, Any], *, keep_known: bool, fresh: Set[str]
    ) -> dict[str, str]:
        """Return the path parameters, each that names nothing replaced by one that does.

        With `keep_known` an id that was once given stays, whatever became of it. Of the
        collections in `fresh` a new member is made, which the request may then delete.
        """
        chosen: dict[str, str] = {}
        for name in PARAMETER.findall(template):
            prefix = template.partition(f"/{{{name}}}")[0]
            collection = PARAMETER.sub(lambda match: chosen[match[1]], prefix)
            value = str(values.get(name, "")).lower()
            kept = value in self._alive.get(collection, []) or (keep_known and value in self.known)
            if not kept and prefix in self._creators:
                value = self._member(prefix, collection, new=prefix in fresh)
            chosen[name] = value
        return chosen

    def refer(
        self, operation: Operation, org_id: str, body: dict[str, Any], *, keep_known: bool
    ) -> None:
        """Make what a body refers to ids of rows of the organization, each that names nothing."""
        for column, template in self._references.get(operation.tag, {}).items():
            if body.get(column) is not None:
                own, row = PARAMETER.findall(template)
                values = {own: org_id, row: body[column]}
                kept = self.existing(template, values, keep_known=keep_known, fresh=frozenset())
                body[column] = kept[row]

    def _member(self, template: str, collection: str, *, new: bool) -> str:
        if template == ORGS and not new:
            self.token(None)
            return self.home
        alive = self._alive.get(collection, [])
        return alive[-1] if alive and not new else self._create(template, collection)

    def _create(self, template: str, collection: str) -> str:
        """Make one more; below an org that is not the peer's nothing can be."""
        bearer = self._any_token()
        if template != ORGS:
            bearer = {"Authorization": f"Bearer {self.token(collection.split('/')[2])}"}
        for _ in range(3):
            self._made += 1
            body = example(self._creators[template], f" {self._made}")
            if template != ORGS and isinstance(body, dict):
                org_id = collection.split("/")[2]
                self.refer(self._creators[template], org_id, body, keep_known=False)
            answer = self._http.post(collection, json=body, headers=bearer)
            if answer.status_code != 409:
                break
        if answer.status_code == 404:
            return NOWHERE
        if answer.status_code == 409:  # there can be no more of them
            return (self._alive.get(collection) or [NOWHERE])[-1]
        id: str = self._expect(answer, 201)["id"]
        self.made(collection, id)
        return id

    def _any_token(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {next(iter(self._tokens.values()))}"}

    def _expect(self, answer: httpx.Response, status: int) -> Any:
        assert answer.status_code == status, f"{answer.request.url}: {answer.text}"
        return answer.json()


def references(contract: Contract) -> dict[str, dict[str, str]]:
    """Return {table: {column: the path of the row that it refers to}}, if that is right below
    the organization."""
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
    """Return the example body of an operation; `suffix` makes its free texts others."""
    if operation.body is None:
        return None
    content = next(iter(operation.body["content"].values()))
    body = dict(content["example"])
    for name, schema in content["schema"].get("properties", {}).items():
        if name in body and "pattern" in schema:
            texts = (f"{body[name]}{suffix}", f"{body[name]}{suffix.strip()}")
            fits = (t for t in texts if len(t) <= schema["maxLength"])
            body[name] = next((t for t in fits if re.search(schema["pattern"], t)), body[name])
    return body
