"""Set up the actors: three tenants with every resource of the contract, and four intruders."""

import json
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg

from evidence.certificate.actors import NO_TOKEN, Actor, Token, World, new_request
from evidence.certificate.client import Client
from evidence.certificate.creators import Creator, creators
from evidence.certificate.matrix import Identity
from evidence.certificate.operations import find_sign_in, query_schemas
from evidence.certificate.resources import create, first_cursor, remember
from evidence.certificate.seeds import Seed, insert_seed, seeds
from evidence.certificate.tokens import claims_of, expired_token, forged_tokens
from evidence.certificate.values import Uncoverable
from openapi.contract import Contract


def build_world(
    contract: Contract,
    client: Client,
    keys_dir: Path | None,
    superuser: psycopg.Connection[Any] | None,
) -> World:
    """Sign in, create every resource, and forge the tokens. Raises `Uncoverable`.

    Without `keys_dir` no expired token can be signed; without `superuser` no row is inserted.
    """
    by_parameter, tables = creators(contract), seeds(contract)
    victim, rival, bystander = (
        _tenant(contract, client, by_parameter, name) for name in ("victim", "rival", "bystander")
    )
    for actor in (victim, rival, bystander):
        _seed_and_list(contract, client, superuser, tables, actor)
    unbound = _guest(contract, client, "unbound guest")
    unbound.ids |= {name: str(uuid.uuid4()) for name in victim.ids if name not in unbound.ids}
    nonexistent = unbound.ids | {str(contract.tenant["claim"]): str(uuid.uuid4())}
    token, other = str(victim.tokens[0].value), str(rival.tokens[0].value)
    actors = {
        Identity.OWN: victim,
        Identity.OTHER: rival,
        Identity.UNBOUND: unbound,
        Identity.NONE: Actor("none", [NO_TOKEN], dict(nonexistent)),
        Identity.FORGED: Actor("forged", forged_tokens(token, other), dict(nonexistent)),
    }
    not_run = "the identity expired: without --keys-dir no expired token can be signed"
    if expired := expired_token(token, keys_dir):
        actors[Identity.EXPIRED] = Actor("expired", [expired], dict(nonexistent))
        not_run = ""
    return World(
        contract=contract,
        client=client,
        bystander=bystander,
        actors=actors,
        creators=by_parameter,
        seeds={seed.parameter: seed for seed in tables if seed.parameter},
        superuser=superuser,
        not_run=(not_run,) if not_run else (),
    )


def renew_unbound(world: World, actor: Actor) -> Actor:
    """Return a new unbound guest: an earlier request may have created its organization."""
    guest = _guest(world.contract, world.client, actor.name)
    return replace(guest, ids={**actor.ids, **guest.ids})


def _guest(contract: Contract, client: Client, name: str) -> Actor:
    operation, claim = find_sign_in(contract), str(contract.tenant["claim"])
    response = client.send(new_request("post", operation.path, NO_TOKEN))
    try:
        token = json.loads(response.body)["access_token"]
        claims = claims_of(token)
        ids = {claim: str(claims[claim])}
    except (LookupError, TypeError, ValueError):
        raise Uncoverable(f"{operation.id}: responded {response.status} without a token") from None
    label = f"the token of the {name}"
    return Actor(name, [Token(label, token)], ids, subject=str(claims.get("sub", "")))


def _tenant(
    contract: Contract, client: Client, by_parameter: Mapping[str, Creator], name: str
) -> Actor:
    """Return a guest with two resources of every creator.

    The body of the second is the one that `unique name` probes repeat, so its texts are no markers.
    """
    actor = _guest(contract, client, name)
    claim = str(contract.tenant["claim"])
    claimed_org = actor.ids.pop(claim)
    for parameter, creator in by_parameter.items():
        first = create(client, creator, actor)
        markers = set(actor.markers)
        second = create(client, creator, actor)
        actor.markers = markers | {second}
        remember(actor, creator, first)
        if parameter == claim:
            actor.orgs += [first, second]
            if first != claimed_org:
                raise Uncoverable(f"{creator.operation.id}: did not use the token's {claim}")
        else:
            actor.second_ids |= dict.fromkeys((parameter, *creator.columns), second)
            actor.spare_ids[parameter] = second
    if claim not in actor.ids:
        raise Uncoverable(f"no operation creates a `{claim}`")
    return actor


def _seed_and_list(
    contract: Contract,
    client: Client,
    superuser: psycopg.Connection[Any] | None,
    tables: Iterable[Seed],
    actor: Actor,
) -> None:
    """Insert two rows into each seeded table, and fetch a cursor of each list."""
    for seed in tables:
        first, second = (insert_seed(superuser, seed, actor.ids) for _ in range(2))
        remember(actor, seed, first)
        actor.markers |= {first, second}
    for operation in contract.operations.values():
        if operation.method == "get" and "cursor" in query_schemas(operation):
            actor.cursors[operation.id] = first_cursor(client, operation, actor)
