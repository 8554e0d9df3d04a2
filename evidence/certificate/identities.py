"""Who asks: two tenants with everything that the contract can make, and five who are not them."""

import base64
import json
import secrets
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import quote, urlencode

import jwt
import psycopg

from evidence.certificate.client import Client
from evidence.certificate.matrix import (
    Maker,
    body_schema,
    declared_headers,
    makers,
    path_ids,
    sign_in,
)
from evidence.certificate.results import Request, Response
from evidence.certificate.seeds import Seed, insert_seeds, seeds
from evidence.certificate.values import DATE, TRIES, Uncoverable, leaves, sample, words
from openapi.contract import Contract, Operation

Token = tuple[str, str | None]  # what it is called, and itself


@dataclass
class Actor:
    """One who asks, with the ids it knows as its own by path parameter."""

    name: str
    tokens: list[Token]
    ids: dict[str, str]
    subject: str = ""
    orgs: list[str] = field(default_factory=list)
    seconds: dict[str, str] = field(default_factory=dict)  # of what it has two of, by name too
    spares: dict[str, str] = field(default_factory=dict)  # the last one made that may be lost
    bodies: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, dict[str, str]] = field(default_factory=dict)  # sent, by operation
    cursors: dict[str, str] = field(default_factory=dict)
    markers: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class World:
    """All who take part; `bystander` never asks, so that whoever harms it is found out."""

    contract: Contract
    client: Client
    victim: Actor
    bystander: Actor
    actors: Mapping[str, Actor]
    makers: Mapping[str, Maker]
    seeds: Mapping[str, Seed]
    superuser: psycopg.Connection[Any] | None
    not_run: tuple[str, ...] = ()


def world(
    contract: Contract,
    client: Client,
    keys_dir: Path | None,
    superuser: psycopg.Connection[Any] | None,
) -> World:
    """Sign in, make every resource, mint what none should be able to. Raises `Uncoverable`."""
    made, sown = makers(contract), {seed.table.name: seed for seed in seeds(contract)}
    victim, rival, bystander = (
        _tenant(contract, client, made, name) for name in ("victim", "rival", "bystander")
    )
    for actor in (victim, rival, bystander):
        _fill(contract, client, superuser, sown.values(), actor)
    unbound = _guest(contract, client, "unbound")
    unbound.ids |= {name: str(uuid.uuid4()) for name in victim.ids if name not in unbound.ids}
    nobody = dict(unbound.ids) | {str(contract.tenant["claim"]): str(uuid.uuid4())}
    token, other = str(victim.tokens[0][1]), str(rival.tokens[0][1])
    expired = _expired(token, keys_dir)
    actors = {
        "own": victim,
        "other": rival,
        "unbound": unbound,
        "none": Actor("none", [("no token", None)], dict(nobody)),
        "forged": Actor("forged", _forged(token, other), dict(nobody)),
    }
    if expired:
        actors["expired"] = Actor("expired", [("the victim's token, expired", expired)], nobody)
    missing = () if expired else ("the identity expired: without the keys no such token is made",)
    by_parameter = {seed.parameter: seed for seed in sown.values() if seed.parameter}
    return World(
        contract, client, victim, bystander, actors, made, by_parameter, superuser, missing
    )


def renewed(world: World, actor: Actor) -> Actor:
    """Return a guest whose organization was never created: the last one may have created it."""
    guest = _guest(world.contract, world.client, actor.name)
    return replace(guest, ids={**actor.ids, **guest.ids})


def call(
    client: Client,
    operation: Operation,
    actor: Actor,
    body: Any = None,
    query: Mapping[str, str] | None = None,
    headers: Mapping[str, str] = MappingProxyType({}),
) -> Response:
    """Call an operation with an actor's own token and ids."""
    target = path(operation, actor.ids) + (f"?{urlencode(query)}" if query else "")
    fields = tuple(headers.items())
    return client.send(request(operation.method, target, actor.tokens[0], body, fields))


def request(
    method: str,
    target: str,
    token: Token,
    body: Any = None,
    headers: tuple[tuple[str, str], ...] = (),
) -> Request:
    shown, text = token
    fields = (*headers, *((("Authorization", f"Bearer {text}"),) if text else ()))
    raw = None if body is None else json.dumps(body, ensure_ascii=False).encode()
    return Request(method.upper(), target, fields, raw, shown)


def path(operation: Operation, ids: Mapping[str, str]) -> str:
    target = operation.path
    for name in path_ids(target):
        if name not in ids:
            raise Uncoverable(f"{operation.id}: no `{name}` could be made")
        target = target.replace(f"{{{name}}}", quote(ids[name], safe="%"))
    return target


def header(parameter: Mapping[str, Any]) -> str:
    """Return a value of a header parameter, fresh where it is text. Raises `Uncoverable`."""
    name, example = parameter["name"], parameter.get("example")
    return str(sample(parameter["schema"], {}, "Key", name, example))


def make(client: Client, maker: Maker, actor: Actor) -> str:
    """Make one more resource as an actor and return its id. Raises `Uncoverable`."""
    schema = body_schema(maker.operation)
    for n in range(TRIES):
        ids = actor.ids | {k: v for k, v in actor.seconds.items() if n and secrets.randbelow(2)}
        body = sample(schema, ids, actor.name.title()) if schema else None
        headers = {p["name"]: header(p) for p in declared_headers(maker.operation)}
        answer = call(client, maker.operation, actor, body, headers=headers)
        if answer.status in (200, 201):
            break  # else a unique key may have few values: another draw may be free
    if answer.status not in (200, 201):
        raise Uncoverable(
            f"{maker.operation.id}: answered {answer.status} to {actor.name},"
            f" so that no {maker.parameter} could be made"
        )
    found: Any = json.loads(answer.body)
    try:
        for key in maker.pointer.strip("/").split("/"):
            found = found[int(key)] if isinstance(found, list) else found[key]
    except (LookupError, ValueError):
        raise Uncoverable(f"{maker.operation.id}: its answer has no {maker.pointer}") from None
    actor.bodies[maker.operation.id] = body
    actor.headers[maker.operation.id] = headers
    actor.markers |= {str(found), *(_texts(body) - words(schema or {}))}
    return str(found)


def keep(actor: Actor, source: Maker | Seed, id: str) -> None:
    """Know an id as an actor's own, by every name that it has."""
    names = (source.parameter, *source.columns)
    actor.ids |= dict.fromkeys([name for name in names if name], id)


def one_more(world: World, parameter: str, actor: Actor) -> None:
    """Have an actor know another of what a path parameter names as its own, or the one it has."""
    if maker := world.makers.get(parameter):
        try:
            made = make(world.client, maker, actor)
        except Uncoverable:  # it has all that a unique key lets it have
            if parameter not in actor.spares:
                raise
            made = actor.spares[parameter]
        actor.spares[parameter] = made
        keep(actor, maker, made)
    elif seed := world.seeds.get(parameter):
        keep(actor, seed, insert_seeds(world.superuser, seed, actor.ids))


def _tenant(contract: Contract, client: Client, made: Mapping[str, Maker], name: str) -> Actor:
    actor = _guest(contract, client, name)
    claim = str(contract.tenant["claim"])
    bound = actor.ids.pop(claim)
    for parameter, maker in made.items():
        first = make(client, maker, actor)
        kept = set(actor.markers)
        second = make(client, maker, actor)  # its name is the one that others try to reuse
        actor.markers = kept | {second}
        keep(actor, maker, first)
        if parameter == claim:
            actor.orgs += [first, second]
            if first != bound:
                raise Uncoverable(f"{maker.operation.id}: did not take the {claim} of the token")
        else:
            actor.seconds |= dict.fromkeys((parameter, *maker.columns), second)
            actor.spares[parameter] = second
    if claim not in actor.ids:
        raise Uncoverable(f"no operation makes a `{claim}`")
    return actor


def _fill(
    contract: Contract,
    client: Client,
    superuser: psycopg.Connection[Any] | None,
    sown: Iterable[Seed],
    actor: Actor,
) -> None:
    """Insert two rows where no operation makes any, and know a position in each list."""
    for seed in sown:
        first, second = (insert_seeds(superuser, seed, actor.ids) for _ in range(2))
        keep(actor, seed, first)
        actor.markers |= {first, second}
    for operation in contract.operations.values():
        if operation.method == "get" and _query(operation, "cursor"):
            actor.cursors[operation.id] = _cursor(client, operation, actor)


def _guest(contract: Contract, client: Client, name: str) -> Actor:
    operation = sign_in(contract)
    answer = client.send(request("post", operation.path, ("no token", None)))
    try:
        token = json.loads(answer.body)["access_token"]
        claims = _payload(token)
        ids = {claim: str(claims[claim]) for claim in [str(contract.tenant["claim"])]}
    except (LookupError, ValueError, TypeError):
        raise Uncoverable(f"{operation.id}: answered {answer.status} and no token") from None
    return Actor(name, [(f"the token of {name}", token)], ids, subject=str(claims.get("sub", "")))


def _cursor(client: Client, operation: Operation, actor: Actor) -> str:
    query = {"limit": "1"} if _query(operation, "limit") else None
    answer = call(client, operation, actor, query=query)
    try:
        return str(json.loads(answer.body)["next"])
    except (LookupError, ValueError, TypeError):
        raise Uncoverable(
            f"{operation.id}: no cursor: answered {answer.status} without `next` to two items"
        ) from None


def _expired(token: str, keys_dir: Path | None) -> str | None:
    """Mint with the service's own key: only its end is wrong."""
    if keys_dir is None:
        return None
    kid = jwt.get_unverified_header(token)["kid"]
    hour = 3600
    now = int(time.time()) - 2 * hour
    claims = _payload(token) | {"iat": now, "nbf": now, "exp": now + hour}
    key = (keys_dir / kid).read_bytes().strip()
    return jwt.encode(claims, key, "HS256", headers={"kid": kid})


def _forged(token: str, other: str) -> list[Token]:
    kid, claims = jwt.get_unverified_header(token)["kid"], _payload(token)
    head, _, signature = other.split(".")
    return [
        (
            "the victim's claims, signed with another key",
            jwt.encode(claims, secrets.token_hex(32), "HS256", headers={"kid": kid}),
        ),
        ("the victim's claims, not signed", jwt.encode(claims, "", "none", headers={"kid": kid})),
        ("the victim's claims, the rival's signature", f"{head}.{token.split('.')[1]}.{signature}"),
    ]


def _payload(token: str) -> dict[str, Any]:
    part = token.split(".")[1]
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return claims


def _query(operation: Operation, name: str) -> bool:
    return any(p["in"] == "query" and p["name"] == name for p in operation.parameters)


def _texts(value: Any) -> set[str]:
    """Return the texts that tell one tenant's from another's."""
    texts = (leaf for leaf in leaves(value) if isinstance(leaf, str))
    return {text for text in texts if len(text) >= 8 and not DATE.fullmatch(text)}
