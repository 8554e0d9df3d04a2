"""The alerts and the dashboard of the chart, judged by Prometheus itself."""

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

from codegen.render import merged
from evidence.harness.processes import ROOT, SHIPPED, Manifest, free_port, named, rendered
from openapi import contract
from service.telemetry.metrics import Metrics
from tests.platform.fix_postgres import Database
from tests.platform.fix_service import answers, serving, tenant, until
from tests.platform.fix_tools import tool

BASE = {"postgres": {"to": [{"ipBlock": {"cidr": "10.1.2.0/24"}}]}, "metrics": {"enabled": True}}
EDGE = {"name": "edge", "namespace": "edge"}
OF = {"namespace": "covenant-test", "job": "covenant"}
# Ids of Grafana (@grafana/data, valueFormats): an unknown one is printed behind the number.
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
    """Return what the dashboard asks, as Grafana would for this release."""
    found = [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]
    for name, value in {**OF, "pod": ".*", "__rate_interval": "15s"}.items():
        found = [expr.replace(f"${name}", value) for expr in found]
    return found


def promtool(folder: Path, *arguments: str) -> None:
    (folder / "rules.yaml").write_text(yaml.safe_dump({"groups": groups()}))
    done = subprocess.run(
        [tool("promtool", "prometheus"), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_accepts_every_rule(tmp_path: Path) -> None:
    promtool(tmp_path, "check", "rules", "rules.yaml")


# Alerts: minutes of made-up counters, and what fires at the end of them


def series(name: str, values: str, **labels: str) -> dict[str, str]:
    inner = ",".join(f'{key}="{value}"' for key, value in {**OF, "pod": "a", **labels}.items())
    return {"series": f"{name}{{{inner}}}", "values": values}


def traffic(
    minutes: int, good: int, bad: int = 0, slow: int = 0, operation: str = "orgs.list"
) -> list[dict[str, str]]:
    """Requests a minute; `bad` of them answered 500, `slow` of them beyond 250 ms."""
    per_minute = good + bad

    def each(count: int) -> str:
        return f"0+{count}x{minutes}"

    return [
        series("covenant_build_info", f"1x{minutes}", version="1", contract="c"),
        series("covenant_database_ready", f"1x{minutes}"),
        *(
            series(
                "covenant_requests_total",
                each(count),
                operation=operation,
                method="GET",
                status=status,
            )
            for status, count in (("200", good), ("500", bad))
        ),
        series("covenant_request_seconds_count", each(per_minute), operation=operation),
        *(
            series("covenant_request_seconds_bucket", each(count), operation=operation, le=le)
            for le, count in (
                ("0.1", 0),
                ("0.25", per_minute - slow),
                ("0.5", per_minute),
                ("+Inf", per_minute),
            )
        ),
    ]


def fires(folder: Path, given: list[dict[str, str]], minutes: int, *alerts: dict[str, str]) -> None:
    """Hold what fires after so many minutes against `alerts`: their labels, namespace aside."""
    firing = [{"alertstate": "firing", **OF, **alert} for alert in alerts]
    samples = [
        {
            "labels": "ALERTS{" + ",".join(f'{k}="{v}"' for k, v in labels.items()) + "}",
            "value": 1,
        }
        for labels in firing
    ]
    case = {
        "interval": "1m",
        "input_series": given,
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
        # Of 10,000 requests a minute 10 may fail.
        (0, []),
        (9, []),
        (20, ["3d"]),
        (40, ["3d", "1d"]),
        (80, ["3d", "1d", "6h"]),
        (200, ["3d", "1d", "6h", "1h"]),
    ],
)
def test_the_faster_errors_use_up_what_is_allowed_the_louder(
    tmp_path: Path, bad: int, windows: list[str]
) -> None:
    fires(tmp_path, traffic(120, 10_000 - bad, bad), 120, *map(burn, windows))


def test_slow_answers_use_up_theirs(tmp_path: Path) -> None:
    """1 of 100 may take longer than 250 ms."""
    fires(tmp_path, traffic(120, 1000, slow=9), 120)
    alerts = [burn(window, "latency") for window in ("3d", "1d")]
    fires(tmp_path, traffic(120, 1000, slow=40), 120, *alerts)


def test_each_operation_is_held_to_its_own(tmp_path: Path) -> None:
    """For auth.me one of 10,000 may fail, and 50 ms are the bound: it has no bucket of 250."""
    alerts = [burn(window, operation="auth.me") for window in ("3d", "1d", "6h", "1h")]
    given = [
        s for s in traffic(120, 9_980, 20, operation="auth.me") if "_bucket" not in s["series"]
    ]
    fires(tmp_path, given, 120, *alerts)


def test_a_few_errors_wake_nobody(tmp_path: Path) -> None:
    """All of nine requests failed: that is no trend."""
    given = [
        dict(s, values=s["values"] if "_info" in s["series"] or "_ready" in s["series"] else few)
        for s in traffic(120, 0, 1)
        if 'status="200"' not in s["series"]
        for few in ["0x60 0+1x8 9x50"]
    ]
    fires(tmp_path, given, 119)


def test_an_end_of_the_errors_is_the_end_of_the_alarm(tmp_path: Path) -> None:
    given = [
        dict(s, values="0+200x60 12000x20") if 'status="500"' in s["series"] else s
        for s in traffic(80, 9_800, 200)
    ]
    fires(tmp_path, given, 80, burn("3d"), burn("1d"), burn("6h"))


def changed(name: str, values: str, **labels: str) -> list[dict[str, str]]:
    """Good traffic for half an hour, with one series in place of its own, or added."""
    kept = [s for s in traffic(30, 100) if not s["series"].startswith(f"{name}{{") or labels]
    return [*kept, series(name, values, **labels)]


@pytest.mark.parametrize(
    ("given", "alert"),
    [
        ([series("up", "1x30")], {"alertname": "CovenantNotScraped", "severity": "critical"}),
        (
            changed("covenant_database_ready", "1x20 0x10"),
            {"alertname": "CovenantDatabaseAway", "severity": "critical"},
        ),
        (
            changed("covenant_unavailable_total", "0+3x30", reason="no_room"),
            {"alertname": "CovenantShedding", "severity": "warning"},
        ),
        (
            changed("covenant_token_failures_total", "0+90x30", reason="signature"),
            {"alertname": "CovenantTokensRefused", "severity": "warning"},
        ),
        (
            changed("covenant_keys_refused", "0x10 1x20"),
            {"alertname": "CovenantKeysRefused", "severity": "critical"},
        ),
        (
            changed("covenant_redis_ready", "1x10 0x20"),
            {"alertname": "CovenantRedisAway", "severity": "warning"},
        ),
        (
            changed("covenant_undeclared_answers_total", "0x10 1x20", operation="orgs.get"),
            {
                "alertname": "CovenantUndeclaredAnswers",
                "severity": "warning",
                "operation": "orgs.get",
            },
        ),
    ],
)
def test_what_an_operator_must_know_fires(
    tmp_path: Path, given: list[dict[str, str]], alert: dict[str, str]
) -> None:
    fires(tmp_path, given, 30, alert)


@pytest.mark.parametrize(
    "given",
    [
        changed("covenant_token_failures_total", "0+900x30", reason="expired"),
        changed("covenant_unavailable_total", "0+30x30", reason="not_ready"),
        changed("covenant_database_ready", "1x29 0x1"),
        [*changed("covenant_stopping", "1x30"), series("covenant_database_ready", "0x30", pod="b")],
    ],
)
def test_what_passes_fires_nothing(tmp_path: Path, given: list[dict[str, str]]) -> None:
    fires(tmp_path, given, 30)


def test_an_alert_says_what_it_is_about(tmp_path: Path) -> None:
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
                                    **OF,
                                    **{k: v for k, v in burn("3d").items() if k != "alertname"},
                                },
                                "exp_annotations": {
                                    "summary": "orgs.list: availability at 2 times the rate"
                                    " that its x-slo allows, over 3d"
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


# Names


def test_every_operation_but_probes_has_its_aims_and_its_bucket() -> None:
    operations = contract.load().operations
    bounds = {str(bound) for bound in Metrics(operations).bounds}
    slos = yaml.safe_load((SHIPPED / "values.yaml").read_text())["slos"]
    assert {slo["seconds"] for slo in slos} <= bounds
    probes = {id for id, operation in operations.items() if "x-probe" in operation.extensions}
    assert {slo["operation"] for slo in slos} == operations.keys() - probes


def test_the_dashboard_is_laid_out() -> None:
    panels = dashboard()["panels"]
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(set(places)) == len(panels) >= 15
    assert all(x in (0, 8, 16) for x, _ in places)


def test_the_dashboard_names_no_source_release_or_pod_of_its_own() -> None:
    variables = {v["name"]: v for v in dashboard()["templating"]["list"]}
    assert list(variables) == ["datasource", "namespace", "job", "pod"]
    asking = [v for v in variables.values() if v["type"] == "query"]
    targets = [target for panel in dashboard()["panels"] for target in panel["targets"]]
    sources = [part["datasource"]["uid"] for part in (*asking, *dashboard()["panels"], *targets)]
    assert set(sources) == {"${datasource}"}
    for target in targets:
        recorded = target["expr"].startswith("covenant:")
        pod = "" if recorded else ',pod=~"$pod"'
        selectors = set(re.findall(r"\{(.*?)\}", target["expr"]))
        assert all(s.startswith(f'namespace="$namespace",job="$job"{pod}') for s in selectors)
        assert all("$__rate_interval" in r for r in re.findall(r"\[.*?\]", target["expr"]))


def test_every_panel_says_what_it_shows() -> None:
    for panel in dashboard()["panels"]:
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS


# A real Prometheus that scrapes the running service


@contextmanager
def prometheus(folder: Path, target: int) -> Iterator[str]:
    """Yield the URL of a Prometheus with these rules, each second."""
    (folder / "rules.yaml").write_text(yaml.safe_dump({"groups": groups()}))
    scrape = {
        "job_name": "covenant",
        "static_configs": [
            {"targets": [f"127.0.0.1:{target}"], "labels": {**OF, "pod": "covenant-1"}}
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


def test_every_query_has_an_answer_from_the_running_service(
    tmp_path: Path, database: Database
) -> None:
    """Names and labels that rules and dashboard speak of are those that the service tells."""
    admin = free_port()
    # What a healthy service does not have, and may be empty.
    silent = re.compile(r'status=~"5\.\."|_unavailable_|_redis_')
    with (
        serving(tmp_path, database.app_url, ADMIN_PORT=str(admin)) as service,
        prometheus(tmp_path, admin) as url,
        tenant(service, "Seen") as acme,
        httpx.Client(base_url=url, timeout=15) as http,
    ):

        def asked(query: str) -> Any:
            response = http.get("/api/v1/query", params={"query": query})
            assert response.status_code == 200, (query, response.text)
            return response.json()["data"]["result"]

        def work() -> bool:
            acme.get("/orgs")
            acme.http.get("/auth/me", headers={"Authorization": "Bearer x"})
            acme.project(f"p{time.monotonic()}")
            return bool(asked('covenant:slo_burn:rate1h{slo="latency",operation="orgs.list"}'))

        def unanswered() -> list[str]:
            work()
            return [query for query in queries() if not asked(query) and not silent.search(query)]

        until(work)
        until(lambda: not unanswered())
        texts = [*queries(), *(rule["expr"] for rule in rules())]
        spoken = {name for text in texts for name in re.findall(r"[a-z_:][a-z0-9_:]*(?=\{)", text)}
        known = http.get("/api/v1/label/__name__/values").json()["data"]
        unknown = {name for name in spoken if name not in known and not silent.search(name)}
        assert unknown == set()
        health = http.get("/api/v1/rules").json()["data"]["groups"]
        faults = [r["lastError"] for group in health for r in group["rules"] if r.get("lastError")]
        assert faults == []
        assert all(r["health"] == "ok" for group in health for r in group["rules"])
        assert asked("ALERTS") == []


def test_the_page_lists_every_alert() -> None:
    page = (ROOT / "docs" / "observability.md").read_text()
    alerts = {rule["alert"] for rule in rules() if "alert" in rule}
    assert set(re.findall(r"`(Covenant[A-Za-z]+)`", page)) == alerts


def test_the_admin_port_is_routed_nowhere() -> None:
    values = merged(BASE, {"exposure": {"kind": "ingress", "host": "h.example", "edge": EDGE}})
    for kind, found in (("Ingress", "ingress"), ("HTTPRoute", "gateway")):
        routed = rendered(merged(values, {"exposure": {"kind": found}}))
        (route,) = [m for m in routed if m["kind"] == kind]
        assert "admin" not in json.dumps(route)
        assert "9090" not in json.dumps(route)
