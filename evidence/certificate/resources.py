"""Create resources as an actor, and remember their ids."""

import json
import secrets
from typing import Any

from evidence.certificate.actors import Actor, World, call
from evidence.certificate.client import Client
from evidence.certificate.creators import Creator
from evidence.certificate.operations import body_schema, header_parameters, query_schemas
from evidence.certificate.results import Response
from evidence.certificate.seeds import Seed, insert_seed
from evidence.certificate.values import (
    DATE,
    Uncoverable,
    enum_values,
    leaves,
    sample,
    sample_header,
)
from openapi.contract import Operation

MAX_ATTEMPTS = 20
MIN_MARKER_LENGTH = 8  # shorter texts may occur in any response


def create(client: Client, creator: Creator, actor: Actor) -> str:
    """Create a resource as an actor and return its id. Raises `Uncoverable`.

    A rejected body is drawn again, with other references too: a unique key may have few values.
    """
    operation, schema = creator.operation, body_schema(creator.operation)
    for attempt in range(MAX_ATTEMPTS):
        ids = dict(actor.ids)
        if attempt:
            ids |= {k: v for k, v in actor.second_ids.items() if secrets.randbelow(2)}
        body = sample(schema, ids, actor.name.title()) if schema else None
        headers = {p["name"]: sample_header(p) for p in header_parameters(operation)}
        response = call(client, operation, actor, body, headers=headers)
        if response.status in (200, 201):
            break
    else:
        raise Uncoverable(
            f"{operation.id}: responded {response.status} to the {actor.name},"
            f" so no {creator.parameter} could be created"
        )
    id = created_id(creator, response)
    actor.sent_bodies[operation.id] = body
    actor.sent_headers[operation.id] = headers
    actor.markers |= {id, *(_marker_texts(body) - enum_values(schema or {}))}
    return id


def created_id(creator: Creator, response: Response) -> str:
    """Return the id of a created resource: at the pointer, or the last segment of Location.

    A 201 may have no body (RFC 9110, 15.3.2). Raises `Uncoverable`.
    """
    try:
        value: Any = json.loads(response.body)
        for key in creator.pointer.strip("/").split("/"):
            value = value[int(key)] if isinstance(value, list) else value[key]
        return str(value)
    except (LookupError, TypeError, ValueError):
        location = dict(response.headers).get("location", "")
    if id := location.rstrip("/").rpartition("/")[2]:
        return id
    raise Uncoverable(
        f"{creator.operation.id}: the response has neither {creator.pointer} nor a Location"
    )


def remember(actor: Actor, source: Creator | Seed, id: str) -> None:
    """Store an id as the actor's own, for its path parameter and the columns that reference it."""
    names = (source.parameter, *source.columns)
    actor.ids |= dict.fromkeys([name for name in names if name], id)


def create_another(world: World, parameter: str, actor: Actor) -> None:
    """Create another resource of a path parameter and store its id as the actor's own.

    If a unique key allows no more, use the actor's spare. Raises `Uncoverable`.
    """
    if creator := world.creators.get(parameter):
        try:
            id = create(world.client, creator, actor)
        except Uncoverable:
            if parameter not in actor.spare_ids:
                raise
            id = actor.spare_ids[parameter]
        actor.spare_ids[parameter] = id
        remember(actor, creator, id)
    elif seed := world.seeds.get(parameter):
        remember(actor, seed, insert_seed(world.superuser, seed, actor.ids))


def first_cursor(client: Client, operation: Operation, actor: Actor) -> str:
    """Return the cursor behind the first item of a list. Raises `Uncoverable`."""
    query = {"limit": "1"} if "limit" in query_schemas(operation) else None
    response = call(client, operation, actor, query=query)
    try:
        return str(json.loads(response.body)["next"])
    except (LookupError, TypeError, ValueError):
        raise Uncoverable(
            f"{operation.id}: no cursor: responded {response.status} without `next`, although"
            " the list has two items"
        ) from None


def _marker_texts(value: Any) -> set[str]:
    """Return the texts that identify one tenant."""
    texts = {leaf for leaf in leaves(value) if isinstance(leaf, str)}
    return {t for t in texts if len(t) >= MIN_MARKER_LENGTH and not DATE.fullmatch(t)}
