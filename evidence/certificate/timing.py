"""Whether response times distinguish another tenant's id from one that does not exist."""

import math
import random
import statistics
from collections.abc import Callable
from dataclasses import dataclass

from evidence.certificate.actors import World
from evidence.certificate.attack_vectors import AttackVector, Location, Probe
from evidence.certificate.matrix import Plan
from evidence.certificate.request_builder import build_request, control_aim, victim_aim
from evidence.certificate.results import Check

PAIRS = 80  # of a measurement; a significant one is repeated with four times as many
WARM_UP_PAIRS = 5
ALPHA = 0.001  # the probability that noise makes any of all tests significant
# Smaller differences are not significant: a loaded machine blurs them.
MIN_DIFFERENCE_MS = 1.0
MIN_DIFFERENCE_RATIO = 0.25  # of the median


@dataclass(frozen=True)
class Measurement:
    """Paired differences (foreign minus nonexistent), and their probability under pure chance."""

    median_ms: float
    difference_ms: float
    p_value: float
    pairs: int

    @property
    def min_difference_ms(self) -> float:
        return max(MIN_DIFFERENCE_MS, MIN_DIFFERENCE_RATIO * self.median_ms)

    def is_significant(self, tests: int) -> bool:
        """Return whether the difference is real, as one of `tests` (Bonferroni correction)."""
        is_large = abs(self.difference_ms) >= self.min_difference_ms
        return is_large and self.p_value < ALPHA / tests


def timing_checks(world: World, plans: list[Plan], progress: Callable[[str], None]) -> list[Check]:
    """Return one check for each operation that accepts an id."""
    targets = [(plan, probe) for plan in plans if (probe := _id_probe(plan))]
    checks = []
    for plan, probe in targets:
        progress(f"timing of {plan.operation.id}")
        checks.append(_check(world, plan, probe, len(targets)))
    return checks


def compare_samples(foreign_ms: list[float], nonexistent_ms: list[float]) -> Measurement:
    """Compare paired samples by the sign test, which assumes no distribution."""
    pairs = zip(foreign_ms, nonexistent_ms, strict=True)
    differences = [foreign - nonexistent for foreign, nonexistent in pairs]
    differences = [difference for difference in differences if difference]
    count, positive = len(differences), sum(difference > 0 for difference in differences)
    z = (abs(positive - count / 2) - 0.5) / math.sqrt(count / 4) if count else 0.0
    p_value = math.erfc(max(0.0, z) / math.sqrt(2))
    difference_ms = statistics.median(differences) if differences else 0.0
    return Measurement(
        statistics.median(nonexistent_ms), difference_ms, p_value, pairs=len(foreign_ms)
    )


def _id_probe(plan: Plan) -> Probe | None:
    """Return the first probe that names the victim's id, None for public operations."""
    if plan.is_public:
        return None
    for vector in (AttackVector.PATH_ID, AttackVector.PARENT_ID, AttackVector.BODY):
        for probe in plan.probes[vector]:
            if probe.location in (Location.PATH, Location.BODY) and probe.is_declared:
                return probe
    return None


def _check(world: World, plan: Plan, probe: Probe, tests: int) -> Check:
    first = last = _measure(world, plan, probe, PAIRS)
    if first.is_significant(tests):  # chance is unlikely to repeat itself
        last = _measure(world, plan, probe, 4 * PAIRS)
    figures = (
        f"median {last.median_ms:.2f} ms, difference {last.difference_ms:+.3f} ms in"
        f" {last.pairs} pairs (p = {last.p_value:.2g}, {tests} tests; significant from"
        f" {last.min_difference_ms:.2f} ms)"
    )
    id = plan.operation.id
    issue = f"{id}: the response time distinguishes another tenant's id: {figures}"
    return Check(
        "timing",
        f"{id}: the response time is the same for another tenant's id and a nonexistent one",
        figures,
        (issue,) if last.is_significant(tests) else (),
    )


def _measure(world: World, plan: Plan, probe: Probe, pairs: int) -> Measurement:
    actor = world.rival
    foreign_ms: list[float] = []
    nonexistent_ms: list[float] = []
    for n in range(pairs + WARM_UP_PAIRS):
        aims = [(victim_aim(world, plan), foreign_ms), (control_aim(world), nonexistent_ms)]
        random.shuffle(aims)
        for aim, samples in aims:
            request, _ = build_request(world, plan, actor, actor.tokens[0], probe, aim)
            response = world.client.send(request)
            if n >= WARM_UP_PAIRS:
                samples.append(response.seconds * 1000)
    return compare_samples(foreign_ms, nonexistent_ms)
