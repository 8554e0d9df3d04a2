"""The report of one run: a Markdown table and the same as JSON."""

import json
import os
import platform
import time
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any


class Verdict(StrEnum):
    """The result of a scenario, or of a whole run; a run can also be incomplete."""

    PASS = "pass"
    FAIL = "fail"
    NOT_RUN = "not run"
    INCOMPLETE = "incomplete"


MARKS = {Verdict.PASS: "pass", Verdict.FAIL: "**FAIL**", Verdict.NOT_RUN: "*not run*"}


@dataclass(frozen=True)
class Row:
    """One scenario in the report. `failures` give the reasons of any verdict but pass."""

    scenario: str
    promise: str
    measurements: str
    verdict: Verdict
    failures: tuple[str, ...]
    seconds: float


def run_facts(load_before: float, started: float) -> dict[str, Any]:
    """Return the date, the machine, and the duration in seconds since `started`."""
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load_before": round(load_before, 2),
        "seconds": round(time.monotonic() - started),
    }


def overall_verdict(rows: list[Row], expected: int) -> Verdict:
    """Return the verdict of a run that should have `expected` rows."""
    verdicts = {row.verdict for row in rows}
    if Verdict.FAIL in verdicts:
        return Verdict.FAIL
    if Verdict.NOT_RUN in verdicts or len(rows) < expected:
        return Verdict.INCOMPLETE
    return Verdict.PASS


def write(folder: Path, rows: list[Row], facts: dict[str, Any], verdict: Verdict) -> None:
    """Write resilience.json and resilience.md."""
    folder.mkdir(parents=True, exist_ok=True)
    document = {"verdict": verdict, "about": facts, "scenarios": [asdict(row) for row in rows]}
    contents = {
        "resilience.md": markdown(rows, facts, verdict),
        "resilience.json": json.dumps(document, indent=1, ensure_ascii=False) + "\n",
    }
    for name, content in contents.items():
        draft = folder / f".{name}.new"
        draft.write_text(content, encoding="utf-8")
        os.replace(draft, folder / name)


def markdown(rows: list[Row], facts: dict[str, Any], verdict: Verdict) -> str:
    """Return the report as Markdown."""
    lines = [
        "# Resilience",
        "",
        f"`make resilience`, {facts['date']}: **{verdict}** in {facts['seconds']} s. "
        f"Python {facts['python']}; load generator, service and database share "
        f"{facts['cores']} cores; the load average was {facts['load_before']} at the start.",
        "",
        "| scenario | promise | measured | verdict |",
        "|---|---|---|---|",
    ]
    for row in rows:
        results = "; ".join(part for part in (row.measurements, *row.failures) if part)
        cells = (row.scenario, row.promise, results, MARKS[row.verdict])
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"
