"""From raw runs to a table, a chart, and what they do and do not show."""

from collections import defaultdict
from statistics import median
from typing import Any

from evidence.benchmark.load import WORKLOADS, Run
from evidence.benchmark.systems import PEERS

GOALS: dict[str, dict[str, float]] = {
    "A": {"r": 12, "l": 9, "w": 9, "h": 2},
    "E": {"r": 5, "l": 4, "w": 3.5, "h": 2},
    "pgbench": {"r": 0.7, "l": 0.45, "w": 0.7},
    "A, tokens all different": {"r": 6, "l": 5, "w": 5},
}
OURS = "Covenant"
DIFFERENT = "Covenant, tokens all different"
ROWS = [OURS, DIFFERENT, "A", "E", "F", "B", "bare", "pgbench", "pgbench pipelined"]
COLOURS = {OURS: "#2563eb", "E": "#94a3b8", "A": "#cbd5e1", "pgbench": "#334155"}


def medians(runs: list[Run]) -> dict[tuple[str, str], Run]:
    """The run with the median rate of each system and workload."""
    groups: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.system, run.workload].append(run)
    return {
        key: sorted(group, key=lambda run: run.per_second)[len(group) // 2]
        for key, group in groups.items()
    }


def markdown(runs: list[Run], facts: dict[str, Any]) -> str:
    """RESULTS.md as text."""
    middle = medians(runs)
    lines = [
        "# Results",
        "",
        f"`make bench` of {facts['date']}, Python {facts['python']}, PostgreSQL "
        f"{facts['postgresql']}, {facts['cpus']} cores shared by load, service and database; "
        f"{facts['rounds']} alternating rounds of {facts['seconds']:g} s, 16 connections, 100 "
        f"rotating tokens, one process each. The load average of the machine when it began was "
        f"{facts['load_before']}. Every figure is the median of the rounds; the range is in "
        "brackets.",
        "",
        "Requests a second:",
        "",
        "| | " + " | ".join(WORKLOADS.values()) + " |",
        "|---|" + "---|" * len(WORKLOADS),
    ]
    for system in ROWS:
        cells = [_rate(runs, system, workload) for workload in WORKLOADS]
        lines.append(f"| {_label(system)} | " + " | ".join(cells) + " |")
    lines += ["", "![Requests a second](results.svg)", "", "## Ratios and goals", ""]
    lines += ["| Covenant to | " + " | ".join(WORKLOADS.values()) + " |", "|---|" + "---|" * 4]
    for name, goals in GOALS.items():
        ours = DIFFERENT if "different" in name else OURS
        peer = name.split(",")[0]
        cells = []
        for workload in WORKLOADS:
            if workload not in goals:
                cells.append("")
                continue
            ratio = _median(runs, ours, workload) / _median(runs, peer, workload)
            verdict = "met" if ratio >= goals[workload] else "**missed**"
            cells.append(f"{ratio:.2f} (goal {goals[workload]:g}: {verdict})")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "## Latency",
        "",
        "| p50 / p99 / longest, ms | " + " | ".join(WORKLOADS.values()) + " |",
        "|---|" + "---|" * len(WORKLOADS),
    ]
    for system in [s for s in ROWS if not s.startswith("pgbench")]:
        cells = []
        for workload in WORKLOADS:
            run = middle.get((system, workload))
            cells.append(f"{run.p50_ms:.1f} / {run.p99_ms:.1f} / {run.max_ms:.0f}" if run else "")
        lines.append(f"| {_label(system)} | " + " | ".join(cells) + " |")
    lines += ["", "## What else was measured", "", *_others(facts), "", NOTE]
    return "\n".join(lines) + "\n"


def svg(runs: list[Run]) -> str:
    """A bar chart of the four workloads, each scaled to its own longest bar."""
    systems = [OURS, "pgbench", "E", "A"]
    parts, y = [], 28
    for workload, title in WORKLOADS.items():
        rates = {s: _median(runs, s, workload) for s in systems if _has(runs, s, workload)}
        longest = max(rates.values())
        parts.append(f'<text x="8" y="{y}" font-weight="600">{title}</text>')
        for system, rate in rates.items():
            y += 20
            width = 360 * rate / longest
            parts.append(
                f'<text x="190" y="{y}" text-anchor="end" fill="#64748b">{_short(system)}</text>'
                f'<rect x="200" y="{y - 11}" width="{width:.0f}" height="14" rx="2" '
                f'fill="{COLOURS[system]}"/>'
                f'<text x="{206 + width:.0f}" y="{y}">{rate:,.0f}/s</text>'
            )
        y += 32
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 660 {y - 16}" width="660" '
        'font-family="system-ui, sans-serif" font-size="12" fill="#0f172a">'
        f'<rect width="660" height="{y - 16}" fill="#ffffff"/>{"".join(parts)}</svg>\n'
    )


def _others(facts: dict[str, Any]) -> list[str]:
    return [f"* {line}" for line in facts["others"]]


def _rates(runs: list[Run], system: str, workload: str) -> list[float]:
    return [r.per_second for r in runs if (r.system, r.workload) == (system, workload)]


def _has(runs: list[Run], system: str, workload: str) -> bool:
    return bool(_rates(runs, system, workload))


def _median(runs: list[Run], system: str, workload: str) -> float:
    return median(_rates(runs, system, workload))


def _rate(runs: list[Run], system: str, workload: str) -> str:
    rates = _rates(runs, system, workload)
    return f"{median(rates):,.0f} ({min(rates):,.0f} to {max(rates):,.0f})" if rates else ""


def _label(system: str) -> str:
    if system == "bare":
        return PEERS[system][0]
    return f"{system}: {PEERS[system][0]}" if system in PEERS else system


def _short(system: str) -> str:
    return {"A": "FastAPI, ORM, asyncpg", "E": "FastAPI, asyncpg"}.get(system, system)


NOTE = """## What this does and does not show

The load generator, the service and PostgreSQL share the cores, so a rate is what is left for a
service when its load and its database run beside it; ratios are steadier than rates. The service
writes a log line for each request, checks limits and validates every request; the peers log
nothing. The peers are what their documentation shows, on the same loop, parser, tokens, policies
and data, and each is first held to the same answers.

Most of the gain is in the data path: one round trip for tenant, statement and commit, with many
requests in flight on each connection, instead of four round trips on a connection of one's own.
FastAPI can have that too, and F is the measurement of it: this service's driver under FastAPI,
with PostgreSQL writing the JSON and no response model. What is between F and E is the data path;
what is between Covenant and F is what the request costs besides, as in `GET /health`."""
