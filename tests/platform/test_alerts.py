"""The alerts of the chart, tested with promtool: which ones fire for which metrics."""

import re
from pathlib import Path

import pytest
import yaml

from evidence.harness.processes import ROOT
from tests.platform.fix_monitoring import RELEASE, promtool, rules


def test_prometheus_accepts_every_rule(tmp_path: Path) -> None:
    promtool(tmp_path, "check", "rules", "rules.yaml")


# Which alerts fire after minutes of synthetic metrics


def series(name: str, values: str, **labels: str) -> dict[str, str]:
    """Return an input series of promtool, with the labels of this release."""
    selector = ",".join(
        f'{key}="{value}"' for key, value in {**RELEASE, "pod": "a", **labels}.items()
    )
    return {"series": f"{name}{{{selector}}}", "values": values}


def traffic(
    minutes: int, good: int, bad: int = 0, slow: int = 0, operation: str = "orgs.list"
) -> list[dict[str, str]]:
    """Return series of requests per minute: `bad` got 500, `slow` took longer than 250 ms."""
    total = good + bad

    def counter(count: int) -> str:
        return f"0+{count}x{minutes}"

    return [
        series("covenant_build_info", f"1x{minutes}", version="1", contract="c"),
        series("covenant_database_ready", f"1x{minutes}"),
        *(
            series(
                "covenant_requests_total",
                counter(count),
                operation=operation,
                method="GET",
                status=status,
            )
            for status, count in (("200", good), ("500", bad))
        ),
        series("covenant_request_seconds_count", counter(total), operation=operation),
        *(
            series("covenant_request_seconds_bucket", counter(count), operation=operation, le=le)
            for le, count in (
                ("0.1", 0),
                ("0.25", total - slow),
                ("0.5", total),
                ("+Inf", total),
            )
        ),
    ]


def check_firing(
    folder: Path, metrics: list[dict[str, str]], minutes: int, *alerts: dict[str, str]
) -> None:
    """Assert that exactly `alerts`, given by their labels, fire after `minutes` of `metrics`."""
    firing = [{"alertstate": "firing", **RELEASE, **alert} for alert in alerts]
    samples = [
        {
            "labels": "ALERTS{" + ",".join(f'{k}="{v}"' for k, v in labels.items()) + "}",
            "value": 1,
        }
        for labels in firing
    ]
    case = {
        "interval": "1m",
        "input_series": metrics,
        "promql_expr_test": [
            {
                "expr": 'ALERTS{alertstate="firing"}',
                "eval_time": f"{minutes}m",
                "exp_samples": samples,
            }
        ],
    }
    document = {"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": [case]}
    (folder / "test.yaml").write_text(yaml.safe_dump(document))
    promtool(folder, "test", "rules", "test.yaml")


def burn(window: str, slo: str = "availability", operation: str = "orgs.list") -> dict[str, str]:
    severity = "critical" if window in ("1h", "6h") else "warning"
    return {
        "alertname": "CovenantErrorBudgetBurn",
        "severity": severity,
        "window": window,
        "slo": slo,
        "operation": operation,
    }


@pytest.mark.parametrize(
    ("bad", "windows"),
    [
        # The objective allows 10 errors in 10,000 requests.
        (0, []),
        (9, []),
        (20, ["3d"]),
        (40, ["3d", "1d"]),
        (80, ["3d", "1d", "6h"]),
        (200, ["3d", "1d", "6h", "1h"]),
    ],
)
def test_a_higher_burn_rate_fires_more_alerts(tmp_path: Path, bad: int, windows: list[str]) -> None:
    check_firing(tmp_path, traffic(120, 10_000 - bad, bad), 120, *map(burn, windows))


def test_slow_responses_burn_the_latency_budget(tmp_path: Path) -> None:
    """The objective allows 1 in 100 requests to take longer than 250 ms."""
    check_firing(tmp_path, traffic(120, 1000, slow=9), 120)
    alerts = [burn(window, "latency") for window in ("3d", "1d")]
    check_firing(tmp_path, traffic(120, 1000, slow=40), 120, *alerts)


def test_each_operation_has_its_own_objective(tmp_path: Path) -> None:
    """auth.me may fail once in 10,000 requests and take 50 ms, so it has no bucket of 250 ms."""
    alerts = [burn(window, operation="auth.me") for window in ("3d", "1d", "6h", "1h")]
    metrics = [
        s for s in traffic(120, 9_980, 20, operation="auth.me") if "_bucket" not in s["series"]
    ]
    check_firing(tmp_path, metrics, 120, *alerts)


def test_a_few_errors_fire_no_alert(tmp_path: Path) -> None:
    """All of nine requests failed, which is no trend."""
    metrics = [
        dict(s, values=s["values"] if "_info" in s["series"] or "_ready" in s["series"] else few)
        for s in traffic(120, 0, 1)
        if 'status="200"' not in s["series"]
        for few in ["0x60 0+1x8 9x50"]
    ]
    check_firing(tmp_path, metrics, 119)


def test_an_alert_ends_with_the_errors(tmp_path: Path) -> None:
    metrics = [
        dict(s, values="0+200x60 12000x20") if 'status="500"' in s["series"] else s
        for s in traffic(80, 9_800, 200)
    ]
    check_firing(tmp_path, metrics, 80, burn("3d"), burn("1d"), burn("6h"))


def traffic_with(name: str, values: str, **labels: str) -> list[dict[str, str]]:
    """Return half an hour of good traffic with one series added, or replaced without labels."""
    others = [s for s in traffic(30, 100) if not s["series"].startswith(f"{name}{{") or labels]
    return [*others, series(name, values, **labels)]


@pytest.mark.parametrize(
    ("metrics", "alert"),
    [
        ([series("up", "1x30")], {"alertname": "CovenantNotScraped", "severity": "critical"}),
        (
            traffic_with("covenant_database_ready", "1x20 0x10"),
            {"alertname": "CovenantDatabaseAway", "severity": "critical"},
        ),
        (
            traffic_with("covenant_unavailable_total", "0+3x30", reason="no_room"),
            {"alertname": "CovenantShedding", "severity": "warning"},
        ),
        (
            traffic_with("covenant_token_failures_total", "0+90x30", reason="signature"),
            {"alertname": "CovenantTokensRefused", "severity": "warning"},
        ),
        (
            traffic_with("covenant_keys_refused", "0x10 1x20"),
            {"alertname": "CovenantKeysRefused", "severity": "critical"},
        ),
        (
            traffic_with("covenant_redis_ready", "1x10 0x20"),
            {"alertname": "CovenantRedisAway", "severity": "warning"},
        ),
        (
            traffic_with("covenant_undeclared_answers_total", "0x10 1x20", operation="orgs.get"),
            {
                "alertname": "CovenantUndeclaredAnswers",
                "severity": "warning",
                "operation": "orgs.get",
            },
        ),
    ],
)
def test_each_alert_fires_on_its_condition(
    tmp_path: Path, metrics: list[dict[str, str]], alert: dict[str, str]
) -> None:
    check_firing(tmp_path, metrics, 30, alert)


@pytest.mark.parametrize(
    "metrics",
    [
        traffic_with("covenant_token_failures_total", "0+900x30", reason="expired"),
        traffic_with("covenant_unavailable_total", "0+30x30", reason="not_ready"),
        traffic_with("covenant_database_ready", "1x29 0x1"),
        [
            *traffic_with("covenant_stopping", "1x30"),
            series("covenant_database_ready", "0x30", pod="b"),
        ],
    ],
)
def test_a_normal_or_short_condition_fires_no_alert(
    tmp_path: Path, metrics: list[dict[str, str]]
) -> None:
    check_firing(tmp_path, metrics, 30)


def test_the_summary_of_an_alert_names_operation_and_burn_rate(tmp_path: Path) -> None:
    document = {
        "rule_files": ["rules.yaml"],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": traffic(120, 9_980, 20),
                "alert_rule_test": [
                    {
                        "eval_time": "120m",
                        "alertname": "CovenantErrorBudgetBurn",
                        "exp_alerts": [
                            {
                                "exp_labels": {
                                    **RELEASE,
                                    **{k: v for k, v in burn("3d").items() if k != "alertname"},
                                },
                                "exp_annotations": {
                                    "summary": "orgs.list burns its availability error budget"
                                    " at 2 times the rate its x-slo allows, over 3d"
                                },
                            }
                        ],
                    }
                ],
            }
        ],
    }
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(document))
    promtool(tmp_path, "test", "rules", "test.yaml")


def test_the_documentation_lists_every_alert() -> None:
    page = (ROOT / "docs" / "observability.md").read_text()
    alerts = {rule["alert"] for rule in rules() if "alert" in rule}
    assert set(re.findall(r"`(Covenant[A-Za-z]+)`", page)) == alerts
