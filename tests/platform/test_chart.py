"""The generated chart: valid manifests, the values schema, and golden files."""

import json
import time
from typing import Any

import helm_python as helm
import kubernetes_validate
import pytest
import yaml

from tests.platform.fix_chart import (
    ENVIRONMENTS,
    HERE,
    KUBERNETES,
    SHIPPED,
    environment_values,
    golden,
    invalid,
    named,
    pod_specs,
    rendered,
    shipped,
    unrestricted,
)
from tests.platform.fix_features import FEATURES, rendered_with

# Validity


def test_helm_lint_reports_nothing() -> None:
    report = helm.lint(str(SHIPPED), strict=True)
    messages = [m for m in report["messages"] if m["error"] != "icon is recommended"]
    assert (messages, report["errors"]) == ([], [])


@pytest.mark.parametrize("kubernetes", KUBERNETES)
@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_every_manifest_is_valid(environment: str, kubernetes: str) -> None:
    assert [error for m in shipped(environment) for error in invalid(m, kubernetes)] == []


@pytest.mark.parametrize("feature", FEATURES)
def test_every_feature_can_be_enabled_and_disabled(feature: str) -> None:
    enabled, disabled, text = FEATURES[feature]
    for values, is_present in ((enabled, True), (disabled, False)):
        manifests = rendered_with(values)
        assert [e for m in manifests for v in ("1.31", "1.37") for e in invalid(m, v)] == []
        assert [e for _, pod in pod_specs(manifests) for e in unrestricted(pod)] == []
        assert (text in yaml.safe_dump_all(manifests)) is is_present


def test_kubernetes_validate_accepts_every_manifest() -> None:
    for manifest in shipped("local"):
        if manifest["kind"] != "Cluster":
            kubernetes_validate.validate(manifest, KUBERNETES[-1], strict=True)


def test_an_invalid_manifest_is_detected() -> None:
    broken = json.loads(json.dumps(named(shipped("local"), "Deployment", "covenant")))
    broken["spec"]["strategie"] = {}
    broken["metadata"]["labels"]["app.kubernetes.io/version"] = "1.0+x"
    assert len(invalid(broken)) == 2
    cluster = json.loads(json.dumps(named(shipped("local"), "Cluster", "covenant-db")))
    cluster["spec"]["instanzes"] = 1
    assert len(invalid(cluster)) == 1
    monitored = rendered_with(FEATURES["metrics"][0])
    rules = json.loads(json.dumps(named(monitored, "PrometheusRule", "covenant")))
    rules["spec"]["groups"][0]["rules"][0]["labels"]["le"] = 0.25
    del rules["spec"]["groups"][1]["rules"][0]["expr"]
    assert len(invalid(rules)) == 2
    assert invalid({"kind": "Cronjob", "apiVersion": "batch/v1", "metadata": {"name": "x"}})


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_every_manifest_has_a_namespace_and_the_labels_of_its_owner(environment: str) -> None:
    for manifest in shipped(environment):
        assert manifest["metadata"]["namespace"] == f"covenant-{environment}"
        labels = manifest["metadata"]["labels"]
        assert labels["app.kubernetes.io/name"] == "covenant"
        assert labels["app.kubernetes.io/component"]


def test_rendering_is_fast_and_deterministic() -> None:
    start = time.perf_counter()
    first, second = (rendered(environment_values("production")) for _ in range(2))
    assert first == second
    assert time.perf_counter() - start < 5


def test_a_fixed_contract_renders_the_golden_files() -> None:
    """After an intended change, `make golden` rewrites the files."""
    files = {file.name: file.read_text("utf-8") for file in (HERE / "golden").glob("*.yaml")}
    assert golden() == files


# Values


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"replicaCount": 3}, "replicaCount"),
        ({"image": {"tagg": "x"}}, "tagg"),
        ({"exposure": {"kind": "nodeport"}}, "kind"),
        ({"exposure": {"kind": "ingress"}}, "host"),
        ({"token": {"lifetime": 3601}}, "lifetime"),
        ({"token": {"issuer": "other"}}, "issuer"),
        ({"contract": {"hash": "sha256:0"}}, "hash"),
        ({"settings": {"PORT": "80"}}, "PORT"),
        ({"redis": {"enabled": True}}, "redis"),
        ({"postgres": {"pooler": {"enabled": True}}}, "pooler"),
        ({"shutdown": {"finishSeconds": 1}}, "finishSeconds"),
    ],
)
def test_an_invalid_value_fails_the_render(values: dict[str, Any], key: str) -> None:
    with pytest.raises(helm.HelmError, match=key):
        rendered(values)


def test_the_schema_is_closed_and_includes_every_default() -> None:
    schema = json.loads((SHIPPED / "values.schema.json").read_text())
    defaults = yaml.safe_load((SHIPPED / "values.yaml").read_text())

    def check_closed(node: Any, path: str) -> None:
        if isinstance(node, dict):
            if "properties" in node and node.get("type") == "object":
                assert node.get("additionalProperties") is False, path
            for key, child in node.items():
                check_closed(child, f"{path}/{key}")

    def check_included(node: Any, values: Any, path: str) -> None:
        while "$ref" in node:
            node = schema["$defs"][node["$ref"].rpartition("/")[2]]
        if isinstance(values, dict) and "properties" in node:
            assert values.keys() <= node["properties"].keys(), path
            for key, value in values.items():
                check_included(node["properties"][key], value, f"{path}/{key}")

    check_closed(schema, "#")
    check_included(schema, defaults, "#")
    assert defaults.keys() == schema["properties"].keys() - {"global"}
