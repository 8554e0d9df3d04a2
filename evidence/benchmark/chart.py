"""results.svg: a bar chart of the rates, readable on light and dark backgrounds."""

from statistics import median
from typing import Any
from xml.sax.saxutils import escape

from evidence.benchmark.load import PGBENCH, PGBENCH_PIPELINED, TITLES, Run, Workload
from evidence.benchmark.report import rates
from evidence.benchmark.systems import COVENANT

# Systems, their labels, and the class of their bars.
BARS = (
    (COVENANT, "Covenant", "ours"),
    ("E", "FastAPI, asyncpg", "peer"),
    ("A", "FastAPI, ORM, asyncpg", "peer"),
    (PGBENCH, "pgbench", "database"),
    (PGBENCH_PIPELINED, "pgbench pipelined (limit)", "limit"),
)
WIDTH, LEFT, LONGEST = 760, 200, 440
TITLE_HEIGHT, GROUP_HEIGHT, BAR_HEIGHT = 76, 34, 20
# The panel has its own background, so it is readable wherever a page places it.
STYLE = """
.panel{fill:#ffffff;stroke:#cbd5e1}.text{fill:#0f172a}.note{fill:#475569}
.ours{fill:#2563eb}.peer{fill:#94a3b8}.database{fill:#475569}
.limit{fill:none;stroke:#475569;stroke-width:1.5;stroke-dasharray:4 2}
.range{stroke:#d97706;stroke-width:2}
@media (prefers-color-scheme: dark){
.panel{fill:#0f172a;stroke:#475569}.text{fill:#f1f5f9}.note{fill:#a8b5c7}
.ours{fill:#60a5fa}.peer{fill:#64748b}.database{fill:#cbd5e1}.limit{stroke:#cbd5e1}
.range{stroke:#f59e0b}}
"""


def svg(runs: list[Run], facts: dict[str, Any]) -> str:
    """Return the chart: one group of bars per workload, with the median and the range."""
    parts, y = [], TITLE_HEIGHT
    for workload in Workload:
        measured = [(rates(runs, name, workload), label, kind) for name, label, kind in BARS]
        bars = [bar for bar in measured if bar[0]]
        scale = LONGEST / max(max(values) for values, _, _ in bars)
        parts.append(_text(16, y + 14, TITLES[workload], "text", "font-weight='600'"))
        y += 24
        for values, label, kind in bars:
            parts += _bar(y, values, label, kind, scale)
            y += BAR_HEIGHT
        y += GROUP_HEIGHT - 24
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" '
        'font-family="system-ui, sans-serif" font-size="12" role="img" '
        'aria-label="Requests per second by system and workload">'
        f"<style>{STYLE}</style>"
        f'<rect class="panel" x="0.5" y="0.5" width="{WIDTH - 1}" height="{y - 1}" rx="6"/>'
        f"{_heading(facts)}{''.join(parts)}</svg>\n"
    )


def _heading(facts: dict[str, Any]) -> str:
    note = (
        f"Median of {facts['rounds']} alternating rounds of {facts['seconds']:g} s; "
        "the orange line is the range. Each workload has its own scale."
    )
    return _text(
        16, 28, "Requests per second, higher is better", "text", "font-size='16' font-weight='600'"
    ) + _text(16, 50, note, "note")


def _bar(y: int, values: list[float], label: str, kind: str, scale: float) -> list[str]:
    middle, low, high = (scale * value for value in (median(values), min(values), max(values)))
    return [
        _text(LEFT - 10, y + 12, label, "note", "text-anchor='end'"),
        f'<rect class="{kind}" x="{LEFT}" y="{y + 1}" width="{middle:.1f}" height="14" rx="2"/>',
        f'<line class="range" x1="{LEFT + low:.1f}" y1="{y + 8}" x2="{LEFT + high:.1f}" '
        f'y2="{y + 8}"/>',
        _text(LEFT + max(middle, high) + 8, y + 12, f"{median(values):,.0f}/s", "text"),
    ]


def _text(x: float, y: float, text: str, kind: str, attributes: str = "") -> str:
    return f'<text class="{kind}" x="{x:.0f}" y="{y}" {attributes}>{escape(text)}</text>'
