"""The alerts and the dashboard of the chart, tested with Prometheus and promtool."""

import json
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from codegen.overrides import merged
from evidence.harness.processes import ROOT, free_port
from openapi import contract
from service.telemetry.metrics import Metrics
from tests.platform.fix_chart import SHIPPED, Manifest, named, rendered
from tests.platform.fix_postgres import Database
from tests.platform.fix_service import answers, serving, tenant, until
from tests.platform.fix_tools import tool

BASE = {"postgres": {"to": [{"ipBlock": {"cidr": "10.1.2.0/24"}}]}, "metrics": {"enabled": True}}
EDGE = {"name": "edge", "namespace": "edge"}
RELEASE = {"namespace": "covenant-test", "job": "covenant"}
# Unit ids of Grafana (@grafana/data, valueFormats); it prints unknown ids after the number.
UNITS = {"bytes", "percentunit", "reqps", "s", "short"}


@cache
def manifests() -> tuple[Manifest, ...]:
    return tuple(rendered(BASE))


def groups() -> list[Any]:
    return list(named(manifests(), "PrometheusRule", "covenant")["spec"]["groups"])


def rules() -> list[dict[str, Any]]:
    return [rule for group in groups() for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    data = named(manifests(), "ConfigMap", "covenant-dashboard")["data"]
    model: dict[str, Any] = json.loads(data["covenant.json"])
    return model


def queries() -> list[str]:
    """Return the queries of the dashboard with the variables Grafana sets for this release."""
    queries = [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]
    for name, value in {**RELEASE, "pod": ".*", "__rate_interval": "15s"}.items():
        queries = [query.replace(f"${name}", value) for query in queries]
    return queries


def promtool(folder: Path, *arguments: str) -> None:
    """Run promtool on the chart's rules in `folder`; fail with its output."""
    (folder / "rules.yaml").write_text(yaml.safe_dump({"groups": groups()}))
    result = subprocess.run(
        [tool("promtool", "prometheus"), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_prometheus_accepts_every_rule(tmp_path: Path) -> None:
    promtool(tmp_path, "check", "rules", "rules.yaml")


# Alerts: which ones fire after minutes of synthetic metrics


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


# The dashboard


def test_every_operation_except_probes_has_objectives_and_a_bucket() -> None:
    operations = contract.load().operations
    bounds = {str(bound) for bound in Metrics(operations).bounds}
    slos = yaml.safe_load((SHIPPED / "values.yaml").read_text())["slos"]
    assert {slo["seconds"] for slo in slos} <= bounds
    probes = {id for id, operation in operations.items() if "x-probe" in operation.extensions}
    assert {slo["operation"] for slo in slos} == operations.keys() - probes


def test_the_panels_do_not_overlap() -> None:
    panels = dashboard()["panels"]
    positions = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(set(positions)) == len(panels) >= 15
    assert all(x in (0, 8, 16) for x, _ in positions)


def test_every_query_uses_the_variables_of_the_dashboard() -> None:
    variables = {v["name"]: v for v in dashboard()["templating"]["list"]}
    assert list(variables) == ["datasource", "namespace", "job", "pod"]
    queried = [v for v in variables.values() if v["type"] == "query"]
    targets = [target for panel in dashboard()["panels"] for target in panel["targets"]]
    sources = [part["datasource"]["uid"] for part in (*queried, *dashboard()["panels"], *targets)]
    assert set(sources) == {"${datasource}"}
    for target in targets:
        is_recorded = target["expr"].startswith("covenant:")
        pod = "" if is_recorded else ',pod=~"$pod"'
        selectors = set(re.findall(r"\{(.*?)\}", target["expr"]))
        assert all(s.startswith(f'namespace="$namespace",job="$job"{pod}') for s in selectors)
        assert all("$__rate_interval" in r for r in re.findall(r"\[.*?\]", target["expr"]))


def test_every_panel_has_a_description_and_a_unit() -> None:
    for panel in dashboard()["panels"]:
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS


# A real Prometheus scrapes the running service


@contextmanager
def prometheus(folder: Path, target: int) -> Iterator[str]:
    """Yield the URL of a Prometheus that scrapes and evaluates the rules every second."""
    (folder / "rules.yaml").write_text(yaml.safe_dump({"groups": groups()}))
    scrape = {
        "job_name": "covenant",
        "static_configs": [
            {"targets": [f"127.0.0.1:{target}"], "labels": {**RELEASE, "pod": "covenant-1"}}
        ],
    }
    (folder / "prometheus.yaml").write_text(
        yaml.safe_dump(
            {
                "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
                "rule_files": ["rules.yaml"],
                "scrape_configs": [scrape],
            }
        )
    )
    port = free_port()
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                tool("prometheus"),
                f"--config.file={folder / 'prometheus.yaml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        until(lambda: answers(f"{url}/-/ready"))
        yield url
    finally:
        process.terminate()
        process.wait(20)


def test_every_query_has_a_result_from_the_running_service(
    tmp_path: Path, database: Database
) -> None:
    """Rules and dashboard use the metric and label names that the service exports."""
    admin = free_port()
    # Queries without a result while the service is healthy.
    empty = re.compile(r'status=~"5\.\."|_unavailable_|_redis_')
    with (
        serving(tmp_path, database.app_url, ADMIN_PORT=str(admin)) as service,
        prometheus(tmp_path, admin) as url,
        tenant(service, "Seen") as acme,
        httpx.Client(base_url=url, timeout=15) as http,
    ):

        def query_result(query: str) -> Any:
            response = http.get("/api/v1/query", params={"query": query})
            assert response.status_code == 200, (query, response.text)
            return response.json()["data"]["result"]

        def send_requests() -> bool:
            acme.get("/orgs")
            acme.http.get("/auth/me", headers={"Authorization": "Bearer x"})
            acme.project(f"p{time.monotonic()}")
            return bool(
                query_result('covenant:slo_burn:rate1h{slo="latency",operation="orgs.list"}')
            )

        def queries_without_result() -> list[str]:
            send_requests()
            return [q for q in queries() if not query_result(q) and not empty.search(q)]

        until(send_requests)
        until(lambda: not queries_without_result())
        texts = [*queries(), *(rule["expr"] for rule in rules())]
        used = {name for text in texts for name in re.findall(r"[a-z_:][a-z0-9_:]*(?=\{)", text)}
        known = http.get("/api/v1/label/__name__/values").json()["data"]
        unknown = {name for name in used if name not in known and not empty.search(name)}
        assert unknown == set()
        health = http.get("/api/v1/rules").json()["data"]["groups"]
        errors = [r["lastError"] for group in health for r in group["rules"] if r.get("lastError")]
        assert errors == []
        assert all(r["health"] == "ok" for group in health for r in group["rules"])
        assert query_result("ALERTS") == []


def test_the_documentation_lists_every_alert() -> None:
    page = (ROOT / "docs" / "observability.md").read_text()
    alerts = {rule["alert"] for rule in rules() if "alert" in rule}
    assert set(re.findall(r"`(Covenant[A-Za-z]+)`", page)) == alerts


def test_the_admin_port_is_not_routed() -> None:
    values = merged(BASE, {"exposure": {"kind": "ingress", "host": "h.example", "edge": EDGE}})
    for kind, exposure in (("Ingress", "ingress"), ("HTTPRoute", "gateway")):
        manifests = rendered(merged(values, {"exposure": {"kind": exposure}}))
        (route,) = [m for m in manifests if m["kind"] == kind]
        assert "admin" not in json.dumps(route)
        assert "9090" not in json.dumps(route)
