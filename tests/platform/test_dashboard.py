"""The dashboard of the chart, and all its queries against a real Prometheus."""

import json
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

from codegen.overrides import merged
from evidence.harness.processes import free_port
from openapi import contract
from service.telemetry.metrics import Metrics
from tests.platform.fix_chart import SHIPPED, rendered
from tests.platform.fix_monitoring import RELEASE, VALUES, dashboard, groups, queries, rules
from tests.platform.fix_postgres import Database
from tests.platform.fix_service import has_status, serving, tenant, until
from tests.platform.fix_tools import tool

EDGE = {"name": "edge", "namespace": "edge"}
# Unit ids of Grafana (@grafana/data, valueFormats); it prints unknown ids after the number.
UNITS = {"bytes", "percentunit", "reqps", "s", "short"}


def test_every_operation_except_probes_has_objectives_and_a_bucket() -> None:
    operations = contract.load().operations
    bounds = {str(bound) for bound in Metrics(operations).buckets}
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
        until(lambda: has_status(f"{url}/-/ready"))
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


def test_the_admin_port_is_not_routed() -> None:
    values = merged(VALUES, {"exposure": {"kind": "ingress", "host": "h.example", "edge": EDGE}})
    for kind, exposure in (("Ingress", "ingress"), ("HTTPRoute", "gateway")):
        manifests = rendered(merged(values, {"exposure": {"kind": exposure}}))
        (route,) = [m for m in manifests if m["kind"] == kind]
        assert "admin" not in json.dumps(route)
        assert "9090" not in json.dumps(route)
