"""Build the request of a probe, aimed at the victim's resources or at ones that do not exist."""

import base64
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from evidence.certificate.actors import Actor, Token, World, new_request
from evidence.certificate.attack_vectors import TENANT_HEADERS, Location, Probe, Variant
from evidence.certificate.comparison import UUID, is_number
from evidence.certificate.matrix import Plan
from evidence.certificate.operations import (
    body_schema,
    header_parameters,
    path_ids,
    response_properties,
)
from evidence.certificate.results import Request
from evidence.certificate.values import (
    Uncoverable,
    leaves,
    nonexistent_id,
    sample,
    sample_header,
)

# Encodes a UUID that no row has: used if the contract has no list to take a cursor from.
SAMPLE_CURSOR = "AZqy9APYfGuKQW4PnSx7NQ"


@dataclass(frozen=True)
class Aim:
    """The values for the names of a probe: the victim's, or for the control nonexistent ones."""

    ids: Mapping[str, str]
    is_control: bool
    texts: Mapping[str, str] = field(default_factory=dict)


def victim_aim(world: World, plan: Plan) -> Aim:
    """Return the victim's ids, and the texts of the body that created its last resource."""
    body = world.victim.sent_bodies.get(plan.operation.id)
    members = body.items() if isinstance(body, dict) else ()
    texts = {name: text for name, text in members if isinstance(text, str)}
    return Aim(dict(world.victim.ids), is_control=False, texts=texts)


def control_aim(world: World) -> Aim:
    """Return ids that do not exist, each of the form of the victim's."""
    ids = {name: nonexistent_id(value) for name, value in world.victim.ids.items()}
    return Aim(ids, is_control=True)


def build_request(
    world: World, plan: Plan, actor: Actor, token: Token, probe: Probe, aim: Aim
) -> tuple[Request, set[str]]:
    """Return the request of a probe, and the texts and numbers in its body.

    Raises `Uncoverable`.
    """
    operation = plan.operation
    method = "head" if probe.variant is Variant.HEAD else operation.method
    target = _path(plan, actor, probe, aim) + _query(world, plan, probe, aim)
    body = _body(plan, actor, probe, aim)
    headers = tuple(_headers(world, plan, actor, probe, aim))
    sent = {str(leaf) for leaf in leaves(body) if isinstance(leaf, str) or is_number(leaf)}
    return new_request(method, target, token, body, headers), sent


def control_cursor(cursor: str) -> str:
    """Return a cursor of the same form for a position that no tenant has.

    If the cursor decodes to text with an id, as for a sorted list, that id is replaced. Otherwise
    one character changes, which leaves a plain id valid.
    """
    padded = cursor + "=" * (-len(cursor) % 4)
    try:
        text = base64.b64decode(padded, altchars=b"-_", validate=True).decode()
    except ValueError:
        text = ""
    if ids := list(UUID.finditer(text)):
        start, end = ids[-1].span()
        text = text[:start] + nonexistent_id(text[start:end]) + text[end:]
        return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()
    index = max((m.start() for m in re.finditer(r"[A-Za-z0-9]", cursor[:-1])), default=0)
    replacement = "b" if cursor[index : index + 1] != "b" else "c"
    return f"{cursor[:index]}{replacement}{cursor[index + 1 :]}"


def _path(plan: Plan, actor: Actor, probe: Probe, aim: Aim) -> str:
    path = plan.operation.path
    for name in path_ids(path):
        is_aimed = probe.location is Location.PATH and name in probe.names
        value = aim.ids.get(name) if is_aimed else actor.ids.get(name)
        if value is None:
            raise Uncoverable(f"no `{name}` could be created")
        value = value.upper() if is_aimed and probe.variant is Variant.UPPERCASE else value
        is_malformed = probe.location is Location.MALFORMED_PATH and name in probe.names
        path = path.replace(f"{{{name}}}", probe.text if is_malformed else quote(value))
    return path


def _query(world: World, plan: Plan, probe: Probe, aim: Aim) -> str:
    if probe.location is Location.MALFORMED_QUERY:
        return f"?{probe.names[0]}={probe.text}"
    if probe.location is Location.QUERY:
        values = {name: aim.ids.get(name) or aim.ids[world.claim] for name in probe.names}
        return "?" + "&".join(f"{name}={quote(value)}" for name, value in values.items())
    if probe.location is Location.CURSOR or probe.variant is Variant.WITH_CURSOR:
        cursors = world.victim.cursors
        cursor = cursors.get(plan.operation.id)
        if probe.is_declared and cursor is None:
            raise Uncoverable("no cursor could be fetched")
        cursor = cursor or next(iter(cursors.values()), SAMPLE_CURSOR)
        return f"?cursor={quote(control_cursor(cursor) if aim.is_control else cursor)}"
    return ""


def _headers(
    world: World, plan: Plan, actor: Actor, probe: Probe, aim: Aim
) -> Iterator[tuple[str, str]]:
    tenant = aim.ids[world.claim]
    if probe.variant is Variant.WITH_HEADERS:
        yield from ((name, tenant) for name in TENANT_HEADERS)
    elif probe.location is Location.HEADER and probe.is_declared:
        yield from _declared_headers(world, plan, actor, probe, aim)
    elif probe.location is Location.HEADER:
        for name in probe.names:
            yield name, f"{world.claim}={tenant}" if name == "Cookie" else tenant


def _declared_headers(
    world: World, plan: Plan, actor: Actor, probe: Probe, aim: Aim
) -> Iterator[tuple[str, str]]:
    """Yield the values the victim sent.

    The victim itself sends new ones, since a value such as an Idempotency-Key works only once.
    """
    sent = world.victim.sent_headers.get(plan.operation.id, {})
    for parameter in header_parameters(plan.operation):
        if (name := parameter["name"]) in probe.names:
            repeats = name in sent and actor is not world.victim and not aim.is_control
            yield name, sent[name] if repeats else sample_header(parameter)


def _body(plan: Plan, actor: Actor, probe: Probe, aim: Aim) -> Any:
    schema, names = body_schema(plan.operation), probe.names
    body: Any = sample(schema, actor.ids, "Fresh") if schema else None
    if probe.location is Location.NAME:
        return body | {name: aim.texts[name] for name in names if name in aim.texts}
    if probe.location is Location.MALFORMED_BODY:
        return body | {names[0]: probe.text}
    if probe.location is not Location.BODY:
        return body
    if probe.variant is Variant.MASS_ASSIGNMENT:
        return (body or {}) | {names[0]: _plausible_value(plan, names[0])}
    last = list(aim.ids.values())[-1]
    return (body or {}) | {name: aim.ids.get(name, last) for name in names}


def _plausible_value(plan: Plan, name: str) -> Any:
    """Return a valid value of a property, so that only its presence can be rejected."""
    properties = response_properties(plan.operation)
    if name in properties:
        try:
            return sample(properties[name], {}, "Mass", name)
        except Uncoverable:
            return "x"
    return {"role": "owner", "subject": "guest-0001"}.get(name, "x")
