"""From a probe to the request that it sends, aimed at the victim or at what nobody has."""

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

from evidence.certificate.comparison import is_number
from evidence.certificate.identities import Actor, Token, World, header, request
from evidence.certificate.matrix import (
    HEADERS,
    NUL_BODY,
    Plan,
    Probe,
    body_schema,
    declared_headers,
    path_ids,
)
from evidence.certificate.results import Request
from evidence.certificate.values import Uncoverable, absent, leaves, merged, sample


def draft(
    world: World, plan: Plan, actor: Actor, token: Token, probe: Probe, aims: Mapping[str, str]
) -> tuple[Request, set[str]]:
    """Return the request of a probe whose names take their value from `aims`, and what it holds.

    Raises `Uncoverable`.
    """
    operation = plan.operation
    body = _body(plan, actor, probe, aims)
    method = "head" if probe.form == "head" else operation.method
    target = _target(plan, actor, probe, aims) + _search(plan, world, probe, aims)
    headers: tuple[tuple[str, str], ...] = ()
    if "header" in (probe.where, probe.form):
        claim = str(world.contract.tenant["claim"])
        names = HEADERS if probe.form == "header" else probe.names
        cookie = names == ("Cookie",)
        headers = tuple((n, f"{claim}={aims[claim]}" if cookie else aims[claim]) for n in names)
        if probe.declared and probe.where == "header":
            headers = tuple(_headers(plan, world, actor, probe, aims))
    return request(method, target, token, body, headers), _texts(body)


def aims_of(world: World, actor: Actor) -> tuple[dict[str, str], dict[str, str]]:
    """Return what stands for the names of a probe: the victim's values, and nobody's."""
    theirs = dict(world.victim.ids)
    return theirs, {name: absent(value) for name, value in theirs.items()}


def _target(plan: Plan, actor: Actor, probe: Probe, aims: Mapping[str, str]) -> str:
    target = plan.operation.path
    for name in path_ids(target):
        aimed = probe.where == "path" and name in probe.names
        value = aims.get(name) if aimed else actor.ids.get(name)
        if value is None:
            raise Uncoverable(f"no `{name}` could be made")
        value = quote(value.upper() if aimed and probe.form == "upper" else value)
        if probe.where == "malformed" and probe.form.startswith("path") and name in probe.names:
            value = probe.form.removeprefix("path ")
        target = target.replace(f"{{{name}}}", value)
    return target


def _search(plan: Plan, world: World, probe: Probe, aims: Mapping[str, str]) -> str:
    if probe.where == "malformed" and probe.form.startswith("query"):
        return f"?{probe.names[0]}=%00"
    if probe.where == "query":
        return "?" + "&".join(f"{n}={quote(_aim(n, aims, world))}" for n in probe.names)
    if "cursor" in (probe.where, probe.form):
        theirs = world.victim.cursors.get(plan.operation.id)
        if probe.declared and theirs is None:
            raise Uncoverable("no cursor could be made")
        cursor = theirs or next(iter(world.victim.cursors.values()), "AZqy9APYfGuKQW4PnSx7NQ")
        if aims != world.victim.ids:
            cursor = _beside(cursor)
        return f"?cursor={quote(cursor)}"
    return ""


def _headers(
    plan: Plan, world: World, actor: Actor, probe: Probe, aims: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """Yield what the victim sent; of its own a fresh one, since it may be meant for once only."""
    sent = world.victim.headers.get(plan.operation.id, {})
    for parameter in declared_headers(plan.operation):
        if (name := parameter["name"]) in probe.names:
            theirs = name in sent and actor is not world.victim and aims == world.victim.ids
            yield name, sent[name] if theirs else header(parameter)


def _body(plan: Plan, actor: Actor, probe: Probe, aims: Mapping[str, str]) -> Any:
    schema = body_schema(plan.operation)
    body: Any = sample(schema, actor.ids, "Fresh") if schema else None
    if probe.where == "name" and probe.form == "theirs":
        return _renamed(body, probe, aims)
    if probe.where == "malformed" and probe.form == "body":
        return {**body, probe.names[0]: NUL_BODY}
    if probe.where != "body":
        return body
    if probe.form == "mass":
        return {**(body or {}), probe.names[0]: _unasked(plan, probe.names[0])}
    last = list(aims.values())[-1]
    return {**(body or {}), **{name: aims.get(name, last) for name in probe.names}}


def _renamed(body: Any, probe: Probe, aims: Mapping[str, str]) -> Any:
    return {
        **body,
        **{name: aims[f"text {name}"] for name in probe.names if f"text {name}" in aims},
    }


def _unasked(plan: Plan, name: str) -> Any:
    """Return a value that the contract shows of this property, so that only its presence is odd."""
    for code, response in plan.operation.responses.items():
        content = response.get("content", {}).get("application/json")
        if code.startswith("2") and content:
            properties = merged(content["schema"]).get("properties", {})
            if name in properties:
                try:
                    return sample(properties[name], {}, "Mass", name)
                except Uncoverable:
                    return "x"
    return {"role": "owner", "subject": "guest-0001"}.get(name, "x")


def _aim(name: str, aims: Mapping[str, str], world: World) -> str:
    return aims.get(name) or aims[str(world.contract.tenant["claim"])]


def _beside(cursor: str) -> str:
    """Return a cursor of the same form that no tenant was given: one digit differs."""
    at = max((m.start() for m in re.finditer(r"[A-Za-z0-9]", cursor[:-1])), default=0)
    other = "b" if cursor[at : at + 1] != "b" else "c"
    return f"{cursor[:at]}{other}{cursor[at + 1 :]}"


def _texts(value: Any) -> set[str]:
    return {str(leaf) for leaf in leaves(value) if isinstance(leaf, str) or is_number(leaf)}
