"""Who takes part in a run, and how they call an operation."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

import psycopg

from evidence.certificate.client import Client
from evidence.certificate.creators import Creator
from evidence.certificate.matrix import Identity
from evidence.certificate.operations import path_ids
from evidence.certificate.results import Request, Response
from evidence.certificate.seeds import Seed
from evidence.certificate.values import Uncoverable
from openapi.contract import Contract, Operation


class Token(NamedTuple):
    """An access token and the label that stands for it in the certificate."""

    label: str
    value: str | None


NO_TOKEN = Token("no token", None)


@dataclass
class Actor:
    """One sender of requests.

    `ids` maps path parameters, and columns that reference the same row, to the actor's own ids.
    `second_ids` has the same keys, for the resources of which it created two; `spare_ids` are
    those that a test may delete. `sent_bodies` and `sent_headers` are what created its resources,
    by operation. `markers` are the ids and texts that only this actor's responses may contain.
    """

    name: str
    tokens: list[Token]
    ids: dict[str, str]
    subject: str = ""
    orgs: list[str] = field(default_factory=list)
    second_ids: dict[str, str] = field(default_factory=dict)
    spare_ids: dict[str, str] = field(default_factory=dict)
    sent_bodies: dict[str, Any] = field(default_factory=dict)
    sent_headers: dict[str, dict[str, str]] = field(default_factory=dict)
    cursors: dict[str, str] = field(default_factory=dict)
    markers: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class World:
    """All actors of a run. The `bystander` sends nothing: it shows collateral damage."""

    contract: Contract
    client: Client
    bystander: Actor
    actors: Mapping[Identity, Actor]
    creators: Mapping[str, Creator]
    seeds: Mapping[str, Seed]
    superuser: psycopg.Connection[Any] | None
    not_run: tuple[str, ...] = ()

    @property
    def victim(self) -> Actor:
        return self.actors[Identity.OWN]

    @property
    def rival(self) -> Actor:
        return self.actors[Identity.OTHER]

    @property
    def claim(self) -> str:
        """The name of the token's claim that contains the tenant."""
        return str(self.contract.tenant["claim"])

    def other_tenants(self, identity: Identity) -> list[Actor]:
        """Return the tenants whose data `identity` must not see."""
        tenants = (self.victim, self.rival, self.bystander)
        return [tenant for tenant in tenants if tenant is not self.actors[identity]]


def call(
    client: Client,
    operation: Operation,
    actor: Actor,
    body: Any = None,
    query: Mapping[str, str] | None = None,
    headers: Mapping[str, str] = MappingProxyType({}),
) -> Response:
    """Call an operation with an actor's own token and ids. Raises `Uncoverable`."""
    target = _path(operation, actor.ids) + (f"?{urlencode(query)}" if query else "")
    request = new_request(operation.method, target, actor.tokens[0], body, tuple(headers.items()))
    return client.send(request)


def new_request(
    method: str,
    target: str,
    token: Token,
    body: Any = None,
    headers: tuple[tuple[str, str], ...] = (),
) -> Request:
    """Return a request with a JSON body; its last header is the Authorization, if any."""
    authorization = (("Authorization", f"Bearer {token.value}"),) if token.value else ()
    raw = None if body is None else json.dumps(body, ensure_ascii=False).encode()
    return Request(method.upper(), target, (*headers, *authorization), raw, token.label)


def _path(operation: Operation, ids: Mapping[str, str]) -> str:
    path = operation.path
    for name in path_ids(path):
        if name not in ids:
            raise Uncoverable(f"{operation.id}: no `{name}` could be created")
        path = path.replace(f"{{{name}}}", quote(ids[name], safe="%"))
    return path
