"""The alert rules and the dashboard of the rendered chart, and promtool to test the rules."""

import json
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from codegen.overrides import merged
from tests.platform.fix_chart import Manifest, named, rendered
from tests.platform.fix_features import BASE
from tests.platform.fix_tools import tool

VALUES = merged(BASE, {"metrics": {"enabled": True}})
RELEASE = {"namespace": "covenant-test", "job": "covenant"}


@cache
def manifests() -> tuple[Manifest, ...]:
    """Return the manifests of a chart with metrics."""
    return tuple(rendered(VALUES))


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
