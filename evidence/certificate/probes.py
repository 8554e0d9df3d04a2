"""Run the cases: send each probe and its control request, compare them, and hash the rows."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import psycopg

from evidence.certificate.actors import Actor, World
from evidence.certificate.attack_vectors import NOT_APPLICABLE, Location, Probe
from evidence.certificate.comparison import differences
from evidence.certificate.expectations import response_issues
from evidence.certificate.identities import renew_unbound
from evidence.certificate.matrix import UNAUTHENTICATED, Identity, Plan
from evidence.certificate.request_builder import build_request, control_aim, victim_aim
from evidence.certificate.resources import create_another
from evidence.certificate.results import Case, Evidence, Request, Response, redacted
from evidence.certificate.row_snapshots import (
    Snapshot,
    TenantTable,
    compare_snapshots,
    take_snapshot,
)
from evidence.certificate.values import Uncoverable

MAX_QUOTED_CHARACTERS = 400
NO_EFFECT = "no row changed in any probe of this case"
EFFECT_UNKNOWN = "rows were not examined"


@dataclass(frozen=True)
class Rows:
    """The connection that reads the effects, None for a service whose database is not given."""

    connection: psycopg.Connection[Any] | None
    tables: list[TenantTable]

    def snapshot(self, foreign: list[str]) -> Snapshot:
        if self.connection is None:
            return {}
        return take_snapshot(self.connection, self.tables, foreign)


@dataclass(frozen=True)
class Context:
    """The operation and the identity of a case."""

    world: World
    plan: Plan
    identity: Identity
    rows: Rows

    @property
    def actor(self) -> Actor:
        return self.world.actors[self.identity]

    @property
    def is_unauthenticated(self) -> bool:
        """Whether every request must be a 401, so that rows are hashed once for each case."""
        return self.identity in UNAUTHENTICATED and not self.plan.is_public


def run_cases(
    world: World, plans: list[Plan], rows: Rows, progress: Callable[[str], None]
) -> Iterator[Case]:
    """Run every case of the matrix; `progress` takes the id of each operation."""
    for plan in plans:
        progress(plan.operation.id)
        for identity in Identity:
            context = Context(world, plan, identity, rows)
            for vector, probes in plan.probes.items():
                case = Case(plan.operation.id, identity, vector)
                if not probes:
                    yield replace(case, not_applicable=NOT_APPLICABLE[vector])
                elif identity not in world.actors:
                    yield replace(case, not_applicable="not run: the signing key is not known")
                else:
                    yield replace(case, evidence=_run_case(context, probes))


def _run_case(context: Context, probes: tuple[Probe, ...]) -> tuple[Evidence, ...]:
    before = context.rows.snapshot([]) if context.is_unauthenticated else {}
    evidence = [_run_probe(context, probe) for probe in probes]
    if context.is_unauthenticated and before != context.rows.snapshot([]):
        issue = "the request was rejected, but rows changed"
        evidence[-1] = replace(evidence[-1], issues=(*evidence[-1].issues, issue))
    return tuple(evidence)


def _run_probe(context: Context, probe: Probe) -> Evidence:
    """Send a probe with each token of the identity; return the first failure, else the first."""
    count = len(context.actor.tokens)
    try:
        evidence = [_attempt(context, probe, token_index) for token_index in range(count)]
    except Uncoverable as error:
        operation = context.plan.operation
        unsent = Request(operation.method.upper(), operation.path)
        issue = f"cannot be covered: {error}"
        return Evidence(probe.name, unsent, None, "not sent", "", (issue,))
    failed = next((e for e in evidence if e.issues), None)
    if failed or count == 1:
        return failed or evidence[0]
    return replace(
        evidence[0], comparison=f"{evidence[0].comparison}, for each of {count} forged tokens"
    )


def _attempt(context: Context, probe: Probe, token_index: int) -> Evidence:
    """Send the control request and the probe, and judge the probe."""
    world, plan, identity = context.world, context.plan, context.identity
    control: Response | None = None
    sent: set[str] = set()
    if identity is not Identity.OWN and not probe.is_malformed:
        with _spare_resource(context, probe) as actor:
            request, sent = build_request(
                world,
                plan,
                actor,
                actor.tokens[token_index],
                _control_probe(probe),
                control_aim(world),
            )
            control = world.client.send(request)
    with _spare_resource(context, probe) as actor:
        request, sent_by_probe = build_request(
            world, plan, actor, actor.tokens[token_index], probe, victim_aim(world, plan)
        )
        foreign = [org for tenant in world.other_tenants(identity) for org in tenant.orgs]
        before = {} if context.is_unauthenticated else context.rows.snapshot(foreign)
        response = world.client.send(request)
    issues = list(response_issues(world, plan, identity, probe, request, response))
    if control is not None:
        issues += [
            f"distinguishable from nonexistent data: {difference}"
            for difference in differences(
                response, control, _known_ids(context), sent | sent_by_probe
            )
        ]
    comparison = _comparison(response, control, has_issues=bool(issues))
    effect = NO_EFFECT if context.rows.connection else EFFECT_UNKNOWN
    if context.rows.connection and not context.is_unauthenticated:
        after = context.rows.snapshot(foreign)
        effect, row_issues = compare_snapshots(before, after, is_rejected=response.status >= 400)
        issues += row_issues
    return Evidence(probe.name, request, response, comparison, effect, tuple(issues))


def _comparison(response: Response, control: Response | None, *, has_issues: bool) -> str:
    """Return how the response relates to the control, for the reader of the certificate."""
    if control is None:
        return "" if has_issues else f"status {response.status}, as expected"
    if has_issues:
        text = redacted(control.text)[:MAX_QUOTED_CHARACTERS]
        return f"the control request got {control.status} {text}"
    return f"same as the control request ({control.status})"


def _control_probe(probe: Probe) -> Probe:
    """Return the probe of the control request: undeclared headers must have no effect at all."""
    is_ignored = probe.location is Location.HEADER and not probe.is_declared
    return replace(probe, location=Location.NOTHING) if is_ignored else probe


def _known_ids(context: Context) -> set[str]:
    """Return the ids that must not differ between a response and the control response."""
    actors = [context.world.victim, context.world.bystander]
    if context.identity is not Identity.UNBOUND:  # each of its writes is by a new guest
        actors.append(context.actor)
    return {id for actor in actors for id in actor.ids.values()}


@contextmanager
def _spare_resource(context: Context, probe: Probe) -> Iterator[Actor]:
    """Yield the actor for one request, with a resource that a successful DELETE may remove."""
    world, plan, actor = context.world, context.plan, context.actor
    last = plan.path_ids[-1] if plan.path_ids else ""
    is_delete = plan.operation.method == "delete"
    is_tenant = context.identity in (Identity.OWN, Identity.OTHER)
    names_victim = probe.location is Location.PATH and last in probe.names
    aims_at_victim = names_victim and context.identity is not Identity.OWN
    is_creatable = last in world.creators.keys() | world.seeds.keys()
    if not is_delete or not is_tenant or aims_at_victim or not is_creatable:
        yield _fresh_unbound(context)
        return
    ids, bodies, markers = dict(actor.ids), dict(actor.sent_bodies), set(actor.markers)
    try:
        create_another(world, last, actor)
        yield actor
    finally:
        actor.ids, actor.sent_bodies, actor.markers = ids, bodies, markers


def _fresh_unbound(context: Context) -> Actor:
    """Return the actor; a new guest for unbound writes, which may create its organization."""
    is_write = context.plan.operation.method not in ("get", "head")
    if is_write and context.identity is Identity.UNBOUND:
        return renew_unbound(context.world, context.actor)
    return context.actor
