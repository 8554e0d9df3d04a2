"""The benchmark's report, chart and A/B table, rendered from invented runs."""

import xml.etree.ElementTree as ElementTree

from evidence.benchmark import chart, compare, report
from evidence.benchmark.compare import Measurement
from evidence.benchmark.load import PGBENCH, PGBENCH_PIPELINED, Run, Workload
from evidence.benchmark.systems import BARE, COVENANT, PEERS

RATES = {COVENANT: 900.0, report.UNCACHED: 800.0, PGBENCH: 1000.0, PGBENCH_PIPELINED: 2000.0}
RUNS = [
    Run(system, workload, rate * factor, 1.0, 2.0, 3.0, 0)
    for system, rate in {**RATES, **dict.fromkeys(PEERS, 50.0)}.items()
    for workload in Workload
    for factor in (0.9, 1.0, 1.2)
    if workload is Workload.HEALTH or system != BARE
    if workload is not Workload.HEALTH or system not in (PGBENCH, PGBENCH_PIPELINED)
]
FACTS = {
    "date": "2026-11-23",
    "python": "3.11",
    "postgresql": "18.4",
    "cpus": 2,
    "rounds": 3,
    "seconds": 5.0,
    "connections": 16,
    "load_before": "0.00",
    "others": ["memory 90 MiB"],
}


def test_the_report_gives_median_range_and_number_of_rounds() -> None:
    text = report.markdown(RUNS, FACTS)
    assert "| Covenant | 900 (810 to 1,080) |" in text
    assert "| pgbench pipelined (limit) | 2,000 (1,800 to 2,400) |" in text
    assert "3 rounds of 5 s" in text
    assert "| Covenant / A | 18.00 (goal 12: met) |" in text


def test_the_chart_has_a_title_a_scale_and_the_limit() -> None:
    drawing = ElementTree.fromstring(chart.svg(RUNS, FACTS))
    texts = [element.text for element in drawing.iter() if element.tag.endswith("}text")]
    assert texts[0] == "Requests per second, higher is better"
    assert "Each workload has its own scale." in str(texts[1])
    assert texts.count("pgbench pipelined (limit)") == 3


def test_the_interval_of_equal_ratios_has_no_width() -> None:
    assert compare.bootstrap_interval([1.1] * 10) == (1.1, 1.1)


def test_the_interval_contains_the_median_of_the_ratios() -> None:
    ratios = [0.97, 0.98, 0.99, 1.0, 1.0, 1.01, 1.01, 1.02, 1.02, 1.05]
    low, high = compare.bootstrap_interval(ratios)
    assert 0.97 <= low < 1.005 < high <= 1.05


def test_the_comparison_shows_rate_and_cpu_time_of_both_checkouts() -> None:
    pair = Measurement(1000.0, 80.0), Measurement(1250.0, 60.0)
    table = compare.markdown({workload: [pair] * 10 for workload in Workload}, 4.0)
    assert "10 alternating pairs of 4 s" in table
    row = "| GET one project | 1,000 | 1,250 | 1.250 (1.250 to 1.250) | 80 | 60 | 0.750 "
    assert row in table
