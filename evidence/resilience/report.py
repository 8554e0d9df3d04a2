"""The table of one run, for people and for machines."""

import json
import os
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

MARKS = {"pass": "pass", "fail": "**FAIL**", "not run": "*not run*"}


@dataclass(frozen=True)
class Row:
    """`verdict` is pass, fail or not run; `faults` say why it is not a pass."""

    scenario: str
    promise: str
    measured: str
    verdict: str
    faults: tuple[str, ...]
    seconds: float


def about(load_before: float, started: float) -> dict[str, Any]:
    """Return what the figures were measured on."""
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load_before": round(load_before, 2),
        "seconds": round(time.monotonic() - started),
    }


def verdict(rows: list[Row], expected: int) -> str:
    """Return pass, fail, or incomplete when a scenario is missing from the table."""
    verdicts = {row.verdict for row in rows}
    if "fail" in verdicts:
        return "fail"
    return "incomplete" if "not run" in verdicts or len(rows) < expected else "pass"


def write(folder: Path, rows: list[Row], facts: dict[str, Any], said: str) -> None:
    """Write resilience.json and resilience.md."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = {"verdict": said, "about": facts, "scenarios": [asdict(row) for row in rows]}
    text = json.dumps(whole, indent=1, ensure_ascii=False) + "\n"
    for name, content in (
        ("resilience.md", markdown(rows, facts, said)),
        ("resilience.json", text),
    ):
        draft = folder / f".{name}.new"
        draft.write_text(content, encoding="utf-8")
        os.replace(draft, folder / name)


def markdown(rows: list[Row], facts: dict[str, Any], said: str) -> str:
    lines = [
        "# Resilience",
        "",
        f"`make resilience` of {facts['date']}: **{said}**. Python {facts['python']}, "
        f"{facts['cores']} cores for load, service and database; load average before "
        f"{facts['load_before']}; {facts['seconds']} s in all.",
        "",
        "| scenario | promise | measured | |",
        "|---|---|---|---|",
    ]
    for row in rows:
        found = "; ".join([row.measured, *row.faults]) if row.faults else row.measured
        cells = (row.scenario, row.promise, found.strip("; "), MARKS[row.verdict])
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"
