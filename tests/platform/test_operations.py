"""docs/operations.md quotes log lines, metrics, alerts and scenarios that exist."""

import ast
import re
from collections.abc import Iterator

import pytest

from evidence.harness.processes import ROOT
from evidence.resilience import __main__ as resilience

PAGE = (ROOT / "docs" / "operations.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in PAGE.splitlines()
    if line.startswith("| ") and not line.startswith("| what happens")
]
DATABASE_ROLES = {"covenant_app", "covenant_backup"}


def string_literals(*folders: str) -> Iterator[str]:
    """Yield every string in the code, with `…` for each replacement field of an f-string."""
    for folder in folders:
        for file in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value
                if isinstance(node, ast.JoinedStr):
                    parts = [p.value if isinstance(p, ast.Constant) else "…" for p in node.values]
                    yield "".join(map(str, parts))


CODE = "\n".join(string_literals("service", "handlers", "db"))
QUOTES = sorted({quote for row in ROWS for quote in re.findall(r"`([^`]+)`", row[1])})


def test_the_page_quotes_log_lines() -> None:
    assert len(QUOTES) > 10


@pytest.mark.parametrize("quote", QUOTES)
def test_a_quoted_log_line_is_in_the_code(quote: str) -> None:
    pieces = [piece.strip(" …") for piece in quote.split("…")]
    assert all(piece in CODE for piece in pieces), pieces


def test_every_metric_on_the_page_exists() -> None:
    exposition = (ROOT / "service/telemetry/exposition.py").read_text()
    metrics = set(re.findall(r"`(covenant_[a-z_]+)", PAGE)) - DATABASE_ROLES
    exported = {
        name
        for text in string_literals("service")
        for name in re.findall(r"covenant_[a-z_]+", text)
    }
    unknown = {m for m in metrics if m not in exported and m.removesuffix("_total") not in exported}
    # The names of these end with a replacement field.
    assert not {m for m in unknown if m.removeprefix("covenant_database_") not in exposition}


def test_every_alert_on_the_page_exists() -> None:
    alerts = (ROOT / "codegen/templates/charts/NAME/templates/alerts.yaml").read_text()
    for alert in re.findall(r"`(Covenant[A-Za-z]+)`", PAGE):
        assert f"alert: {alert}\n" in alerts


def test_the_page_names_every_scenario_but_the_soak_and_no_other() -> None:
    scenarios = {scenario.name for scenario in resilience.SCENARIOS}
    lists = [match for row in ROWS for match in re.findall(r"\((`[^)]*`)\)", row[0])]
    named = {name for names in lists for name in re.findall(r"`([^`]+)`", names)}
    named |= set(re.findall(r"drill \(`([a-z]+)`\)", PAGE))
    assert named == scenarios - {resilience.SOAK}
