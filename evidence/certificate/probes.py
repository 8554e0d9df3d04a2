"""Run the cells: send each probe and its double, compare, and look at the rows."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import psycopg

from evidence.certificate import comparison, row_snapshots
from evidence.certificate.identities import Actor, World, one_more, renewed
from evidence.certificate.matrix import IDENTITIES, Plan, Probe, shows_text, success_codes
from evidence.certificate.request_builder import aims_of, draft
from evidence.certificate.results import Case, Evidence, Request, Response, redacted
from evidence.certificate.row_snapshots import Snapshot, Table
from evidence.certificate.values import Uncoverable

STRANGERS = ("none", "expired", "forged")
EFFECT_LATER = "no row changed in any probe of this cell"


@dataclass(frozen=True)
class Rows:
    """Where the effects are read."""

    connection: psycopg.Connection[Any] | None
    tables: list[Table]

    def look(self, foreign: list[str]) -> Snapshot:
        if self.connection is None:
            return {}
        return row_snapshots.snapshot(self.connection, self.tables, foreign)


def cells(
    world: World, plans: list[Plan], rows: Rows, say: Callable[[str], None]
) -> Iterator[Case]:
    """Run every cell of the matrix."""
    for plan in plans:
        say(plan.operation.id)
        for identity in IDENTITIES:
            for way, probes in plan.ways.items():
                if isinstance(probes, str):
                    yield Case(plan.operation.id, identity, way, reason=probes)
                elif identity not in world.actors:
                    yield Case(plan.operation.id, identity, way, reason="not run: no keys")
                else:
                    yield _cell(world, plan, world.actors[identity], way, probes, rows)


def _cell(
    world: World, plan: Plan, actor: Actor, way: str, probes: tuple[Probe, ...], rows: Rows
) -> Case:
    stranger = actor.name in STRANGERS and not plan.is_public
    before = rows.look([]) if stranger else {}
    evidence = []
    for probe in probes:
        try:
            evidence.append(_probe(world, plan, actor, probe, rows, stranger))
        except Uncoverable as error:
            lost = Request(plan.operation.method.upper(), plan.operation.path)
            fault = f"cannot be covered: {error}"
            evidence.append(Evidence(probe.name, lost, None, "not sent", "", (fault,)))
    if stranger and before != rows.look([]):
        fault = "refused, and rows changed all the same"
        evidence[-1] = replace(evidence[-1], faults=(*evidence[-1].faults, fault))
    identity = "own" if actor is world.victim else actor.name
    identity = "other" if actor is world.actors["other"] else identity
    return Case(plan.operation.id, identity, way, tuple(evidence))


def _probe(
    world: World, plan: Plan, actor: Actor, probe: Probe, rows: Rows, stranger: bool
) -> Evidence:
    made = [_one(world, plan, actor, n, probe, rows, stranger) for n in range(len(actor.tokens))]
    first = next((evidence for evidence in made if evidence.faults), made[0])
    if len(actor.tokens) > 1 and not first.faults:
        told = f"{first.compared}; {len(actor.tokens)} forgeries answered alike"
        first = replace(first, compared=told)
    return first


def _one(
    world: World,
    plan: Plan,
    actor: Actor,
    n: int,
    probe: Probe,
    rows: Rows,
    stranger: bool,
) -> Evidence:
    own = actor is world.victim
    theirs, nobodys = aims_of(world, actor)
    aimed = probe
    if probe.where == "name":
        known = world.victim.bodies.get(plan.operation.id) or {}
        theirs |= {f"text {n}": t for n, t in known.items() if isinstance(t, str)}
        aimed = replace(probe, form="theirs")
    double: Response | None = None
    texts: set[str] = set()
    if not own and probe.where != "malformed":
        with _spare(world, plan, actor, probe):
            actor = _unbound(world, plan, actor)
            asked, texts = draft(world, plan, actor, actor.tokens[n], _double(probe), nobodys)
            double = world.client.send(asked)
    with _spare(world, plan, actor, probe):
        if own:
            theirs |= world.victim.ids
        actor = _unbound(world, plan, actor)
        request, more = draft(world, plan, actor, actor.tokens[n], aimed, theirs)
        foreign = [org for a in _others(world, actor) for org in a.orgs]
        before = {} if stranger else rows.look(foreign)
        answer = world.client.send(request)
    faults = list(_faults(world, plan, actor, probe, request, answer))
    compared = f"answered {answer.status}, as it must"
    if double is not None:
        asking = () if actor.name == "unbound" else (actor,)
        known = {v for a in (world.victim, world.bystander, *asking) for v in a.ids.values()}
        odd = comparison.differences(answer, double, known, texts | more)
        faults += [f"tells its id from one that nothing has: {what}" for what in odd]
        compared = f"the same answer as for what nobody has ({double.status})"
        if faults:
            said = redacted(double.body.decode(errors="replace"))[:400]
            compared = f"for what nobody has it is {double.status} {said}"
    elif faults:
        compared = ""
    effect = EFFECT_LATER if rows.connection else "not looked at"
    if not stranger and rows.connection:
        refused = answer.status >= 400
        effect, odd = row_snapshots.told(before, rows.look(foreign), refused)
        faults += odd
    return Evidence(probe.name, request, answer, compared, effect, tuple(faults))


def _faults(
    world: World, plan: Plan, actor: Actor, probe: Probe, request: Request, answer: Response
) -> Iterator[str]:
    expected = _expected(world, plan, actor, probe)
    if expected is not None and answer.status not in expected:
        yield f"answered {answer.status}, not {' or '.join(map(str, sorted(expected)))}"
    elif answer.status not in {int(code) for code in plan.operation.responses if code.isdigit()}:
        yield f"answered {answer.status}, which the contract does not declare"
    if answer.status == 401 and "www-authenticate" not in dict(answer.headers):
        yield "401 without WWW-Authenticate"
    said = answer.body.decode(errors="replace").lower()
    said += " ".join(value for _, value in answer.headers).lower()
    sent = f"{request.target} {request.body!r} {request.headers[:-1]!r}".lower()
    sent += (request.body or b"").decode(errors="replace").lower()
    for other in _others(world, actor):
        if held := [
            m for m in sorted(other.markers) if m.lower() in said and m.lower() not in sent
        ]:
            yield f"the answer holds what is {other.name}'s: {held[0]}"
    shows = actor is world.victim and plan.operation.method == "get" and not plan.is_public
    shows = shows and shows_text(plan.operation)
    if shows and answer.status == 200 and request.method == "GET":
        mine = {*world.victim.markers, *world.victim.ids.values()}
        if not any(marker.lower() in said for marker in mine):
            yield "the answer holds nothing of the tenant's own"


def _expected(world: World, plan: Plan, actor: Actor, probe: Probe) -> set[int] | None:
    """Return the statuses that are right, None where the double's answer decides alone."""
    own, success = actor is world.victim, success_codes(plan.operation)
    if own and plan.scarce:
        success |= {409}
    if actor.name in STRANGERS and not plan.is_public:
        return {401}
    match probe.where:
        case "malformed":
            return {400}
        case "path" if not plan.is_public:
            return success if own else {404}
        case "body" if plan.operation.body is not None:
            if not probe.declared:
                return {400}
            return success if own else {404}
        case "query" | "cursor" if not probe.declared:
            return {400}
        case "header" if own and probe.names == ("If-Match",):
            return success | {412}
        case "name" if own:
            return success | {409}
    return success if own or plan.is_public else None


@contextmanager
def _spare(world: World, plan: Plan, actor: Actor, probe: Probe) -> Iterator[None]:
    """Around a deletion that may succeed: have something that may be lost."""
    last = plan.path_ids[-1] if plan.path_ids else ""
    aimed = probe.where == "path" and last in probe.names and actor is not world.victim
    idle = plan.operation.method != "delete" or actor.name in (*STRANGERS, "unbound")
    if idle or aimed or last not in world.makers.keys() | world.seeds.keys():
        yield
        return
    kept = dict(actor.ids), dict(actor.bodies), set(actor.markers)
    try:
        one_more(world, last, actor)
        yield
    finally:
        actor.ids, actor.bodies, actor.markers = kept


def _double(probe: Probe) -> Probe:
    """A header that the contract does not declare must change nothing: its double has none."""
    return replace(probe, where="bare") if probe.where == "header" and not probe.declared else probe


def _unbound(world: World, plan: Plan, actor: Actor) -> Actor:
    writes = plan.operation.method not in ("get", "head")
    return renewed(world, actor) if writes and actor.name == "unbound" else actor


def _others(world: World, actor: Actor) -> list[Actor]:
    everyone = [world.victim, world.actors["other"], world.bystander]
    return [other for other in everyone if other is not actor]
