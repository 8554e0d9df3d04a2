"""docs/operations.md quotes the service: its log, metrics, alerts and the scenarios."""

import ast
import re

import pytest

from evidence.harness.processes import ROOT
from evidence.resilience import __main__ as resilience

PAGE = (ROOT / "docs" / "operations.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in PAGE.splitlines()
    if line.startswith("| ") and not line.startswith("| what happens")
]


def _texts(folders: tuple[str, ...]) -> str:
    """Every literal text of the code, whole, with `…` for what an f-string fills in."""
    found = []
    for folder in folders:
        for file in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
                if isinstance(node, ast.JoinedStr):
                    parts = [p.value if isinstance(p, ast.Constant) else "…" for p in node.values]
                    found.append("".join(map(str, parts)))
    return "\n".join(found)


CODE = _texts(("service", "handlers", "db"))
QUOTED = sorted({text for row in ROWS for text in re.findall(r"`([^`]+)`", row[1])})


def test_the_page_quotes_lines_of_the_log() -> None:
    assert len(QUOTED) > 10


@pytest.mark.parametrize("line", QUOTED)
def test_a_line_of_the_log_is_in_the_code(line: str) -> None:
    pieces = [piece.strip(" …") for piece in re.split("…", line)]
    assert all(piece in CODE for piece in pieces), pieces


def test_every_metric_alert_and_scenario_that_is_named_exists() -> None:
    exposition = (ROOT / "service/telemetry/exposition.py").read_text()
    metrics = set(re.findall(r"`(covenant_[a-z_]+)", PAGE)) - {"covenant_app", "covenant_backup"}
    made = _texts(("service",)).split("\n")
    names = {n for text in made for n in re.findall(r"covenant_[a-z_]+", text)}
    unknown = {m for m in metrics if m not in names and m.removesuffix("_total") not in names}
    assert not {m for m in unknown if m.removeprefix("covenant_database_") not in exposition}
    alerts = (ROOT / "codegen/templates/charts/NAME/templates/alerts.yaml").read_text()
    for alert in re.findall(r"`(Covenant[A-Za-z]+)`", PAGE):
        assert f"alert: {alert}\n" in alerts
    known = {scenario.name for scenario in resilience.ALL}
    named = {n for row in ROWS for p in re.findall(r"\((`[^)]*`)\)", row[0])
             for n in re.findall(r"`([^`]+)`", p)}  # fmt: skip
    named |= set(re.findall(r"drill \(`([a-z]+)`\)", PAGE))
    assert named <= known
    assert known - named <= {"soak"}, "a scenario that operators are told nothing of"
