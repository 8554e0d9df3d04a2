"""The short scenarios of `make resilience`, run against a real service, and the report."""

from collections.abc import Callable
from pathlib import Path

import pytest

from evidence.resilience import __main__ as resilience
from evidence.resilience import report
from evidence.resilience.report import Row, Verdict
from evidence.resilience.scenario import NotRun, Scenario, Trial
from tests.platform import fix_tools

IN_TESTS = [scenario for scenario in resilience.SCENARIOS if scenario.in_tests]


@pytest.mark.parametrize("scenario", IN_TESTS, ids=[scenario.name for scenario in IN_TESTS])
def test_the_service_keeps_its_promise(scenario: Scenario) -> None:
    row = resilience.run_scenario(scenario, is_short=True)
    if row.verdict is Verdict.NOT_RUN:
        fix_tools.not_run(row.failures[0])
    assert (row.verdict, row.failures) == (Verdict.PASS, ()), row.measurements


def test_scenarios_have_unique_names_and_a_promise() -> None:
    assert len({scenario.name for scenario in resilience.SCENARIOS}) == len(resilience.SCENARIOS)
    assert all(scenario.promise for scenario in resilience.SCENARIOS)


def passes(trial: Trial) -> None:
    pass


def fails(trial: Trial) -> None:
    trial.expect(condition=False, failure="1 failed")


def raises(trial: Trial) -> None:
    raise RuntimeError("broken")


def needs_a_program(trial: Trial) -> None:
    raise NotRun("haproxy is not installed")


def never_ends(trial: Trial) -> None:
    while True:
        pass


def run(behaviour: Callable[[Trial], None], timeout: float = 5.0) -> Row:
    def scenario(trial: Trial) -> None:
        trial.record("0 failed")
        behaviour(trial)

    return resilience.run_scenario(Scenario("example", "nothing fails", scenario, timeout))


@pytest.mark.parametrize(
    ("behaviour", "verdict", "failures"),
    [
        (passes, Verdict.PASS, ()),
        (fails, Verdict.FAIL, ("1 failed",)),
        (raises, Verdict.FAIL, ("RuntimeError: broken",)),
        (needs_a_program, Verdict.NOT_RUN, ("haproxy is not installed",)),
    ],
)
def test_a_row_reports_verdict_measurements_and_failures(
    behaviour: Callable[[Trial], None], verdict: Verdict, failures: tuple[str, ...]
) -> None:
    row = run(behaviour)
    assert (row.verdict, row.failures, row.measurements) == (verdict, failures, "0 failed")


def test_a_scenario_that_does_not_end_fails() -> None:
    row = run(never_ends, timeout=0.2)
    failure = "TimeoutError: not finished after 0.2 s"
    assert (row.verdict, row.failures) == (Verdict.FAIL, (failure,))


def test_a_duration_over_its_limit_fails(tmp_path: Path) -> None:
    trial = Trial(tmp_path)
    trial.expect_within("ready after", 0.5, 1.0)
    trial.expect_within("closed after", 2.0, 1.0)
    trial.expect_within("written after", float("inf"), 1.0)
    assert trial.measurements == [
        "ready after 500 ms",
        "closed after 2.00 s",
        "written after never",
    ]
    assert trial.failures == [
        "closed after 2.00 s, limit 1.00 s",
        "written after never, limit 1.00 s",
    ]


@pytest.mark.parametrize(
    ("verdicts", "expected", "overall"),
    [
        (("pass", "pass"), 2, "pass"),
        (("pass", "fail"), 2, "fail"),
        (("not run", "fail"), 2, "fail"),
        (("pass", "not run"), 2, "incomplete"),
        (("pass",), 2, "incomplete"),
    ],
)
def test_a_report_with_a_missing_scenario_is_incomplete(
    verdicts: tuple[str, ...], expected: int, overall: str, tmp_path: Path
) -> None:
    rows = [Row("s", "p|q", "m", Verdict(verdict), (), 1.0) for verdict in verdicts]
    verdict = report.overall_verdict(rows, expected)
    assert verdict == overall
    report.write(tmp_path, rows, report.run_facts(0.0, 0.0), verdict)
    table = (tmp_path / "resilience.md").read_text()
    assert f"**{overall}**" in table
    assert "p\\|q" in table
