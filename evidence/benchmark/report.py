"""RESULTS.md from raw runs: rates, ratios, latencies, and what they do and do not show."""

from collections import defaultdict
from dataclasses import dataclass
from statistics import median
from typing import Any

from evidence.benchmark.load import PGBENCH, PGBENCH_PIPELINED, TITLES, Run, Workload
from evidence.benchmark.systems import BARE, COVENANT, PEERS

UNCACHED = "Covenant, uncached tokens"
ROWS = (COVENANT, UNCACHED, "A", "E", "F", "B", BARE, PGBENCH, PGBENCH_PIPELINED)
SEPARATOR = "|---|" + "---|" * len(TITLES)


@dataclass(frozen=True)
class Goal:
    """The minimum ratios of the rate of `system` to that of `peer`, by workload."""

    system: str
    peer: str
    ratios: dict[Workload, float]


def _goal(system: str, peer: str, *ratios: float) -> Goal:
    return Goal(system, peer, dict(zip(Workload, ratios, strict=False)))


GOALS = (
    _goal(COVENANT, "A", 12, 9, 9, 2),
    _goal(COVENANT, "E", 5, 4, 3.5, 2),
    _goal(COVENANT, PGBENCH, 0.7, 0.45, 0.7),
    _goal(UNCACHED, "A", 6, 5, 5),
)

COMPARED = """\
Compared are HTTP services that implement the same four requests on the same PostgreSQL, with the
same data, tokens and row-level security: Covenant with all its features on, FastAPI with three
data paths (A, E, F), and Connexion (B). pgbench runs the SQL of these requests without a service:
one statement per round trip, or the whole transaction in one round trip (pipelined), which is the
limit for a service. Every system is one process with {connections} client connections and 100
tokens in turn; with uncached tokens, 20,000 tokens in turn defeat the token cache.

The systems take turns: {rounds} rounds of {seconds:g} s per system and workload, in reverse order
every other round. Every figure is the median of the rounds, with the range in parentheses."""

NOTE = """## What this does and does not show

The load generator, the service and PostgreSQL share the cores. A rate is therefore what remains
for a service that runs beside its load and its database; ratios are steadier than rates. The
service logs every request, checks limits and validates every request; the peers do not log. The
peers follow their documentation, with the service's event loop and HTTP parser. Before the
measurement, the responses of every system are compared with those of the service.

Most of the gain is in the data path: tenant, statement and commit are one round trip, with many
requests in flight on each connection, instead of four round trips on an exclusive connection.
FastAPI can use that path too: F is FastAPI with this service's driver, where PostgreSQL writes the
JSON and there is no response model. The difference between E and F is the data path; the difference
between F and Covenant is the rest of the work of a request, as in `GET /health`."""


def markdown(runs: list[Run], facts: dict[str, Any]) -> str:
    """Return RESULTS.md."""
    lines = [
        "# Results",
        "",
        f"`make bench`, {facts['date']}: Python {facts['python']}, PostgreSQL "
        f"{facts['postgresql']}, {facts['cpus']} cores. The load average of the machine was "
        f"{facts['load_before']} at the start.",
        "",
        COMPARED.format(**facts),
        "",
        "## Requests per second",
        "",
        "| | " + " | ".join(TITLES.values()) + " |",
        SEPARATOR,
        *(_row(_label(name), [_rate(runs, name, w) for w in Workload]) for name in ROWS),
        "",
        "![Requests per second](results.svg)",
        "",
        "## Ratios and goals",
        "",
        "Each ratio is that of the two medians.",
        "",
        "| | " + " | ".join(TITLES.values()) + " |",
        SEPARATOR,
        *(_goal_row(runs, goal) for goal in GOALS),
        "",
        "## Latency",
        "",
        "Of the round with the median rate: p50 / p99 / maximum in ms.",
        "",
        "| | " + " | ".join(TITLES.values()) + " |",
        SEPARATOR,
        *_latency_rows(runs),
        "",
        "## Further measurements",
        "",
        *(f"* {line}" for line in facts["others"]),
        "",
        NOTE,
    ]
    return "\n".join(lines) + "\n"


def rates(runs: list[Run], system: str, workload: Workload) -> list[float]:
    """Return the rates of all rounds, none when the pair was not measured."""
    return [r.per_second for r in runs if (r.system, r.workload) == (system, workload)]


def _row(label: str, cells: list[str]) -> str:
    return f"| {label} | " + " | ".join(cells) + " |"


def _rate(runs: list[Run], system: str, workload: Workload) -> str:
    values = rates(runs, system, workload)
    if not values:
        return ""
    return f"{median(values):,.0f} ({min(values):,.0f} to {max(values):,.0f})"


def _goal_row(runs: list[Run], goal: Goal) -> str:
    cells = []
    for workload in Workload:
        minimum = goal.ratios.get(workload)
        if minimum is None:
            cells.append("")
            continue
        system = median(rates(runs, goal.system, workload))
        ratio = system / median(rates(runs, goal.peer, workload))
        verdict = "met" if ratio >= minimum else "**missed**"
        cells.append(f"{ratio:.2f} (goal {minimum:g}: {verdict})")
    return _row(f"{goal.system} / {goal.peer}", cells)


def _latency_rows(runs: list[Run]) -> list[str]:
    groups: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.system, run.workload].append(run)
    rows = []
    for system in ROWS:
        if system in (PGBENCH, PGBENCH_PIPELINED):
            continue
        cells = []
        for workload in Workload:
            group = sorted(groups[system, workload], key=lambda run: run.per_second)
            middle = group[len(group) // 2] if group else None
            cells.append(
                f"{middle.p50_ms:.1f} / {middle.p99_ms:.1f} / {middle.max_ms:.0f}" if middle else ""
            )
        rows.append(_row(_label(system), cells))
    return rows


def _label(system: str) -> str:
    if system == PGBENCH_PIPELINED:
        return f"{PGBENCH_PIPELINED} (limit)"
    if system == BARE:
        return PEERS[BARE][0]
    return f"{system}: {PEERS[system][0]}" if system in PEERS else system
