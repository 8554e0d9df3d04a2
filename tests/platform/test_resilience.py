"""The short scenarios of `make resilience`, each for real."""

from pathlib import Path

import pytest

from evidence.resilience import __main__ as resilience
from evidence.resilience import report
from evidence.resilience.report import Row
from evidence.resilience.scenario import NotRun, Scenario, Trial
from tests.platform import fix_tools

SHORT = [scenario for scenario in resilience.ALL if scenario.short]


@pytest.mark.parametrize("scenario", SHORT, ids=[scenario.name for scenario in SHORT])
def test_what_goes_wrong_is_survived(scenario: Scenario) -> None:
    row = resilience.play(scenario, short=True)
    if row.verdict == "not run":
        fix_tools.not_run(row.faults[0])
    assert (row.verdict, row.faults) == ("pass", ()), row.measured


def test_names_are_unique_and_every_scenario_promises_something() -> None:
    assert len({scenario.name for scenario in resilience.ALL}) == len(resilience.ALL)
    assert all(scenario.promise for scenario in resilience.ALL)


def played(finds: str, limit: float = 5.0) -> Row:
    def play(trial: Trial) -> None:
        trial.note("0 failed")
        if finds == "a fault":
            trial.demand(False, "1 failed")
        if finds == "no program":
            raise NotRun("haproxy is not installed")
        if finds == "an error":
            raise RuntimeError("broken")
        while finds == "no end":
            pass

    return resilience.play(Scenario("planted", "nothing fails", play, limit))


@pytest.mark.parametrize(
    ("finds", "verdict", "faults"),
    [
        ("nothing", "pass", ()),
        ("a fault", "fail", ("1 failed",)),
        ("an error", "fail", ("RuntimeError: broken",)),
        ("no program", "not run", ("haproxy is not installed",)),
    ],
)
def test_a_row_says_what_was_found(finds: str, verdict: str, faults: tuple[str, ...]) -> None:
    row = played(finds)
    assert (row.verdict, row.faults, row.measured) == (verdict, faults, "0 failed")


def test_a_scenario_that_does_not_end_has_failed() -> None:
    row = played("no end", limit=0.2)
    assert (row.verdict, row.faults) == ("fail", ("TimeoutError: not over within 0 s",))


@pytest.mark.parametrize(
    ("verdicts", "expected", "said"),
    [
        (("pass", "pass"), 2, "pass"),
        (("pass", "fail"), 2, "fail"),
        (("not run", "fail"), 2, "fail"),
        (("pass", "not run"), 2, "incomplete"),
        (("pass",), 2, "incomplete"),
    ],
)
def test_a_table_that_lacks_a_scenario_is_not_green(
    verdicts: tuple[str, ...], expected: int, said: str, tmp_path: Path
) -> None:
    rows = [Row("s", "p|q", "m", verdict, (), 1.0) for verdict in verdicts]
    assert report.verdict(rows, expected) == said
    report.write(tmp_path, rows, report.about(0.0, 0.0), said)
    table = (tmp_path / "resilience.md").read_text()
    assert f"**{said}**" in table
    assert "p\\|q" in table
