"""Whether the time to answer tells an id of another tenant from one that nothing has."""

import math
import random
import statistics
from collections.abc import Callable
from dataclasses import dataclass

from evidence.certificate.identities import World
from evidence.certificate.matrix import Plan, Probe
from evidence.certificate.request_builder import aims_of, draft
from evidence.certificate.results import Check

PAIRS = 80  # of one look; a look that finds something is repeated with four times as many
ALPHA = 0.001  # that noise alone makes one of all tests look like a difference
LEAST_MS = 1.0
LEAST_SHARE = 0.25  # of the median: what a loaded machine blurs is not called a difference


@dataclass(frozen=True)
class Look:
    """Paired differences (foreign less absent) and how likely chance makes them."""

    median_ms: float
    difference_ms: float
    chance: float
    pairs: int

    def is_found(self, tests: int) -> bool:
        enough = max(LEAST_MS, LEAST_SHARE * self.median_ms)
        return self.chance < ALPHA / tests and abs(self.difference_ms) >= enough


def rules(world: World, plans: list[Plan], say: Callable[[str], None]) -> list[Check]:
    """Return one rule for each operation that takes an id."""
    targets = [(plan, probe) for plan in plans if (probe := _probe(plan))]
    return [_rule(world, plan, probe, len(targets), say) for plan, probe in targets]


def look(foreign_ms: list[float], absent_ms: list[float]) -> Look:
    """Compare paired samples by the sign test, which asks nothing of their distribution."""
    differences = [a - b for a, b in zip(foreign_ms, absent_ms, strict=True) if a != b]
    count, above = len(differences), sum(d > 0 for d in differences)
    z = (abs(above - count / 2) - 0.5) / math.sqrt(count / 4) if count else 0.0
    chance = math.erfc(max(0.0, z) / math.sqrt(2))
    median = statistics.median(differences) if differences else 0.0
    return Look(statistics.median(absent_ms), median, chance, len(foreign_ms))


def _probe(plan: Plan) -> Probe | None:
    for way in ("path id", "parent id", "body"):
        probes = plan.ways[way]
        if not isinstance(probes, str):
            for probe in probes:
                if probe.where in ("path", "body") and probe.declared and not plan.is_public:
                    return probe
    return None


def _rule(world: World, plan: Plan, probe: Probe, tests: int, say: Callable[[str], None]) -> Check:
    say(f"timing of {plan.operation.id}")
    first = _look(world, plan, probe, PAIRS)
    seen = first
    if first.is_found(tests):  # chance seldom says it twice
        seen = _look(world, plan, probe, 4 * PAIRS)
    found = first.is_found(tests) and seen.is_found(tests)
    told = (
        f"median {seen.median_ms:.2f} ms, difference {seen.difference_ms:+.3f} ms in"
        f" {seen.pairs} pairs (p = {seen.chance:.2g}, {tests} tests; a difference counts from"
        f" {max(LEAST_MS, LEAST_SHARE * seen.median_ms):.2f} ms on)"
    )
    name = f"{plan.operation.id}: an id of another tenant takes as long as one that nothing has"
    fault = f"{plan.operation.id}: the time to answer tells them apart: {told}"
    return Check("timing", name, told, (fault,) if found else ())


def _look(world: World, plan: Plan, probe: Probe, pairs: int) -> Look:
    actor = world.actors["other"]
    samples: tuple[list[float], list[float]] = ([], [])
    for n in range(pairs + 5):
        aims = aims_of(world, actor)
        order = random.sample((0, 1), 2)
        for which in order:
            request, _ = draft(world, plan, actor, actor.tokens[0], probe, aims[which])
            answer = world.client.send(request)
            if n >= 5:  # the first answers warm up
                samples[which].append(answer.seconds * 1000)
    return look(*samples)
