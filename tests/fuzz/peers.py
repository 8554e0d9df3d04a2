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
        """Forget what a path named and everything below it."""
        collection, _, id = path.rpartition("/")
        if id in self._alive.get(collection, []):
            self._alive[collection].remove(id)
        for below in [other for other in self._alive if other.startswith(f"{path}/")]:
            del self._alive[below]

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
            answer = self._http.post(collection, json=body, headers=bearer)
            if answer.status_code != 409:
                break
        if answer.status_code == 404:
            return NOWHERE
        id: str = self._expect(answer, 201)["id"]
        self.made(collection, id)
        return id

    def _any_token(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {next(iter(self._tokens.values()))}"}

    def _expect(self, answer: httpx.Response, status: int) -> Any:
        assert answer.status_code == status, f"{answer.request.url}: {answer.text}"
        return answer.json()


def example(operation: Operation, suffix: str = "") -> Any:
    """Return the example body of an operation; `suffix` makes its name another one."""
    if operation.body is None:
        return None
    (content,) = operation.body["content"].values()
    body = dict(content["example"])
    if "name" in body:
        body["name"] += suffix
    return body
