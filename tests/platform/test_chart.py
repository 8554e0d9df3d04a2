"""The generated chart: validity, values, pod security, order, routes and network policies."""

import json
import re
import time
from pathlib import Path
from typing import Any

import helm_python as helm
import kubernetes_validate
import pytest
import yaml
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from codegen.overrides import merged
from codegen.render import literal
from openapi import contract
from openapi.contract import ContractError
from service.settings import OTHER_SETTINGS, Settings
from tests.platform.fix_chart import (
    ENVIRONMENTS,
    HERE,
    KUBERNETES,
    ROOT,
    SHIPPED,
    Manifest,
    environment_values,
    generated,
    golden,
    invalid,
    kinds,
    named,
    pod_specs,
    rendered,
    shipped,
    unrestricted,
    write_files,
)

PEER = [{"ipBlock": {"cidr": "10.1.2.0/24"}}]
GATEWAY = {"kind": "gateway", "host": "h.example", "edge": {"name": "g", "namespace": "edge"}}
# Optional features: values that enable and disable them, and text present only when enabled.
FEATURES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "scaling": ({"scaling": {"enabled": True}}, {"scaling": {"enabled": False}}, "averageUtil"),
    "replicas": ({"replicas": 2}, {"replicas": 1}, "PodDisruptionBudget"),
    "ingress": ({"exposure": {**GATEWAY, "kind": "ingress"}}, {}, "kind: Ingress"),
    "gateway": ({"exposure": GATEWAY}, {}, "HTTPRoute"),
    "tls": (
        {"exposure": {**GATEWAY, "kind": "ingress", "tls": True, "issuer": "letsencrypt"}},
        {"exposure": {**GATEWAY, "kind": "ingress"}},
        "cluster-issuer",
    ),
    "docs": (
        {"docs": {"enabled": True}, "exposure": GATEWAY},
        {"docs": {"enabled": False}, "exposure": GATEWAY},
        "/openapi.json",
    ),
    "bootstrap": ({"secrets": {"bootstrap": True}}, {}, "RoleBinding"),
    "cloudnative-pg": ({"postgres": {"mode": "cloudnative-pg"}}, {}, "kind: Cluster"),
    "pooler": (
        {"postgres": {"mode": "cloudnative-pg", "pooler": {"enabled": True}}},
        {"postgres": {"mode": "cloudnative-pg"}},
        "kind: Pooler",
    ),
    "backup": (
        {
            "postgres": {
                "mode": "cloudnative-pg",
                "backup": {"enabled": True, "snapshotClass": "fast"},
                "storage": {"class": "ssd"},
                "parameters": {"work_mem": "8MB"},
            }
        },
        {"postgres": {"mode": "cloudnative-pg"}},
        "ScheduledBackup",
    ),
    "redis": (
        {"redis": {"enabled": True, "secret": "redis", "to": PEER}},
        {},
        "REDIS_URL",
    ),
    "tracing": (
        {"tracing": {"enabled": True, "endpoint": "http://otel:4318", "to": PEER}},
        {},
        "OTEL_EXPORTER_OTLP_ENDPOINT",
    ),
    "metrics": ({"metrics": {"enabled": True}}, {}, "ServiceMonitor"),
    "alerts": (
        {"metrics": {"enabled": True}},
        {"metrics": {"enabled": True, "alerts": False}},
        "PrometheusRule",
    ),
    "dashboard": (
        {"metrics": {"enabled": True}},
        {"metrics": {"enabled": True, "dashboard": False}},
        "grafana_dashboard",
    ),
    "network": ({"network": {"enabled": True}}, {"network": {"enabled": False}}, "NetworkPolicy"),
    "tests": ({"tests": {"enabled": True}}, {"tests": {"enabled": False}}, "helm.sh/hook"),
    "tests after sync": ({"tests": {"afterSync": True}}, {}, "PostSync"),
    "digest": ({"image": {"digest": f"sha256:{'0' * 64}"}}, {}, "@sha256:"),
    "placement": (
        {
            "placement": {
                "nodeSelector": {"disk": "ssd"},
                "tolerations": [{"key": "a", "operator": "Exists"}],
                "priorityClassName": "high",
            },
            "image": {"pullSecrets": [{"name": "registry"}]},
        },
        {},
        "priorityClassName",
    ),
    "settings": ({"settings": {"CORS_ORIGINS": "https://app.example"}}, {}, "CORS_ORIGINS"),
}
BASE: dict[str, Any] = {"postgres": {"to": PEER}}


def rendered_with(values: dict[str, Any]) -> list[Manifest]:
    return rendered(merged(BASE, values))


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


# Pods


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_every_pod_meets_pod_security_restricted(environment: str) -> None:
    pods = list(pod_specs(shipped(environment)))
    assert {name for name, _ in pods} >= {
        "Deployment/covenant",
        "Job/covenant-migration",
        "Job/covenant-test-sign-in",
        "Job/covenant-test-create",
        "Job/covenant-test-tenants",
    }
    assert [(name, error) for name, pod in pods for error in unrestricted(pod)] == []


def test_only_the_bootstrap_mounts_a_service_account_token() -> None:
    for environment in ENVIRONMENTS:
        for name, pod in pod_specs(shipped(environment)):
            is_mounted = "serviceAccountToken" in json.dumps(pod.get("volumes", []))
            assert is_mounted is (name == "Job/covenant-bootstrap")


def test_the_bootstrap_can_only_create_secrets() -> None:
    role = named(shipped("local"), "Role", "covenant-bootstrap")
    assert role["rules"] == [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]}]


def test_probes_differ_and_liveness_never_uses_the_database() -> None:
    (pod,) = [p for n, p in pod_specs(shipped("local")) if n == "Deployment/covenant"]
    container = pod["containers"][0]
    startup, liveness, readiness = (
        container[f"{kind}Probe"] for kind in ("startup", "liveness", "readiness")
    )
    assert startup["httpGet"]["path"] == liveness["httpGet"]["path"] == "/health"
    assert readiness["httpGet"]["path"] == "/ready"
    assert len({json.dumps(p, sort_keys=True) for p in (startup, liveness, readiness)}) == 3


def test_the_grace_period_covers_the_whole_shutdown() -> None:
    (pod,) = [p for n, p in pod_specs(shipped("local")) if n == "Deployment/covenant"]
    stop = yaml.safe_load((SHIPPED / "values.yaml").read_text())["shutdown"]
    settings = named(shipped("local"), "ConfigMap", "covenant-settings")["data"]
    assert settings["DRAIN_SECONDS"] == str(stop["drainSeconds"])
    source = (ROOT / "service" / "http" / "server.py").read_text()
    grace = re.search(r"^GRACE = (\d+)$", source, re.MULTILINE)
    assert grace
    assert stop["finishSeconds"] >= int(grace[1])
    assert pod["terminationGracePeriodSeconds"] > sum(stop.values())
    assert pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"] > 0


def test_a_rollout_never_reduces_the_number_of_pods() -> None:
    for environment in ENVIRONMENTS:
        deployment = named(shipped(environment), "Deployment", "covenant")
        assert deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


def test_only_the_hpa_sets_replicas_if_there_is_one() -> None:
    for environment in ENVIRONMENTS:
        is_scaled = "HorizontalPodAutoscaler" in kinds(shipped(environment))
        deployment = named(shipped(environment), "Deployment", "covenant")
        assert ("replicas" in deployment["spec"]) is not is_scaled
    assert "HorizontalPodAutoscaler" in kinds(shipped("production"))
    assert "HorizontalPodAutoscaler" not in kinds(shipped("local"))


def test_changed_settings_restart_the_pods() -> None:
    hashes = {
        named(rendered_with(values), "Deployment", "covenant")["spec"]["template"]["metadata"][
            "annotations"
        ]["settings/hash"]
        for values in ({}, {"settings": {"CORS_ORIGINS": "https://a.example"}})
    }
    assert len(hashes) == 2


def test_the_service_reads_every_setting() -> None:
    known = {name.upper() for name in Settings.model_fields} | set(OTHER_SETTINGS)
    for environment in ENVIRONMENTS:
        data = named(shipped(environment), "ConfigMap", "covenant-settings")["data"]
        assert data.keys() <= known
        for _, pod in pod_specs(shipped(environment)):
            for variable in pod["containers"][0].get("env", []):
                if "secretKeyRef" in variable.get("valueFrom", {}):
                    assert variable["name"] in known


def test_the_edge_is_a_trusted_proxy() -> None:
    """Otherwise the limit for guests would count the gateway instead of its clients."""
    settings = named(shipped("production"), "ConfigMap", "covenant-settings")["data"]
    assert "10.0.0.0/8" in settings["TRUSTED_PROXIES"].split(",")
    assert "0.0.0.0/0" not in settings["TRUSTED_PROXIES"]


def test_the_hash_of_the_contract_is_on_the_chart_and_its_pods() -> None:
    digest = f"sha256:{contract.load().hash}"
    chart = yaml.safe_load((SHIPPED / "Chart.yaml").read_text())
    assert chart["annotations"] == {"contract/hash": digest}
    deployment = named(shipped("production"), "Deployment", "covenant")
    annotations = deployment["spec"]["template"]["metadata"]["annotations"]
    assert annotations["contract/hash"] == digest


def test_the_chart_contains_no_secret() -> None:
    for environment in ENVIRONMENTS:
        assert "Secret" not in kinds(shipped(environment))
    for file in SHIPPED.rglob("*"):
        if file.is_file():
            assert not re.search(r"\brand[A-Z]\w+|\blookup\b|genSig", file.read_text()), file


# Order


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_migrations_run_after_the_secrets_and_before_the_service(environment: str) -> None:
    wave = {
        (m["kind"], m["metadata"]["name"]): int(
            m["metadata"]["annotations"]["argocd.argoproj.io/sync-wave"]
        )
        for m in shipped(environment)
    }
    migration = wave["Job", "covenant-migration"]
    assert migration < wave["Deployment", "covenant"]
    assert migration > wave["Cluster", "covenant-db"]
    if ("Job", "covenant-bootstrap") in wave:
        bootstrap = wave["Job", "covenant-bootstrap"]
        assert wave["RoleBinding", "covenant-bootstrap"] < bootstrap
        assert bootstrap < wave["Cluster", "covenant-db"]
    job = named(shipped(environment), "Job", "covenant-migration")
    assert job["metadata"]["annotations"]["argocd.argoproj.io/hook"] == "Sync"
    assert "MIGRATION_DATABASE_URL" not in json.dumps(
        named(shipped(environment), "Deployment", "covenant")
    )


# Routes


@pytest.mark.parametrize("environment", ["staging", "production"])
def test_the_gateway_routes_exactly_the_declared_operations(environment: str) -> None:
    matches = [
        match
        for rule in named(shipped(environment), "HTTPRoute", "covenant")["spec"]["rules"]
        for match in rule["matches"]
    ]

    def is_routed(method: str, path: str) -> bool:
        return any(
            m["method"] == method
            and (
                path == m["path"]["value"]
                if m["path"]["type"] == "Exact"
                else bool(re.search(m["path"]["value"], path))
            )
            for m in matches
        )

    operations = contract.load().operations.values()
    for operation in operations:
        path = re.sub(r"\{[^}]*\}", "019ab2f4-7c1e-7a52-9f3d-2b6c8e5d4a10", operation.path)
        is_internal = operation.extensions.get("x-internal", False)
        assert is_routed(operation.method.upper(), path) is not is_internal, operation.id
        declared = {o.method.upper() for o in operations if o.path == operation.path}
        for method in {"GET", "PUT", "POST", "DELETE", "PATCH", "TRACE"} - declared:
            assert not is_routed(method, path), (method, path)
    for path in ("/metrics", "/openapi.json", "/ui", "/orgs/1/members", "/orgs/", "//orgs", "/x"):
        assert not is_routed("GET", path), path
    assert len(matches) == len([o for o in operations if not o.extensions.get("x-internal")])


def test_an_ingress_routes_only_prefixes_of_declared_paths() -> None:
    rule = named(shipped("local"), "Ingress", "covenant")["spec"]["rules"][0]
    assert rule["host"] == "api.localhost"
    paths = {(p["pathType"], p["path"]) for p in rule["http"]["paths"]}
    assert ("Exact", "/health") in paths
    assert ("Prefix", "/orgs") in paths
    assert ("Prefix", "/") not in paths
    assert not any(path == "/ready" for _, path in paths)


def test_many_operations_need_several_http_routes() -> None:
    routes = [{"exact": f"/a{i}", "methods": ["GET", "POST"]} for i in range(70)]
    manifests = rendered_with({"exposure": GATEWAY, "routes": routes})
    routes = [m for m in manifests if m["kind"] == "HTTPRoute"]
    assert [len(m["spec"]["rules"][0]["matches"]) for m in routes] == [64, 64, 12]
    assert len({m["metadata"]["name"] for m in routes}) == 3


# Network policies


def policies(manifests: Any) -> dict[str, Manifest]:
    return {m["metadata"]["name"]: m["spec"] for m in manifests if m["kind"] == "NetworkPolicy"}


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_all_other_traffic_is_denied(environment: str) -> None:
    specs = policies(shipped(environment))
    assert specs["covenant-deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for spec in specs.values():
        assert spec["policyTypes"] == ["Ingress", "Egress"]
    components = {
        m["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/component"]
        for m in shipped(environment)
        if m["kind"] in ("Deployment", "Job")
    }
    selected = {
        spec["podSelector"].get("matchLabels", {}).get("app.kubernetes.io/component")
        for spec in specs.values()
    }
    assert components <= selected


def destinations(spec: Manifest) -> set[tuple[str, int]]:
    """Return (last string of the peer, port) for every destination a policy allows."""
    return {
        (re.findall(r'"([^"]+)"', json.dumps(peer))[-1], port["port"])
        for rule in spec["egress"]
        for peer in rule.get("to", [{"to": "anywhere"}])
        for port in rule["ports"]
    }


def test_the_service_reaches_only_dns_and_its_database() -> None:
    dns = ("kube-system", 53)
    assert destinations(policies(shipped("local"))["covenant"]) == {dns, ("covenant-db", 5432)}
    everything = rendered_with(
        {name: FEATURES[name][0][name] for name in ("redis", "tracing", "metrics")}
    )
    assert destinations(policies(everything)["covenant"]) == {
        dns,
        ("10.1.2.0/24", 5432),
        ("10.1.2.0/24", 6379),
        ("10.1.2.0/24", 4318),
    }
    assert destinations(policies(shipped("local"))["covenant-migration"]) == {
        dns,
        ("covenant-db", 5432),
    }
    assert destinations(policies(shipped("local"))["covenant-test"]) == {dns, ("service", "http")}


def test_only_monitoring_reaches_the_admin_port() -> None:
    rules = policies(rendered_with(FEATURES["metrics"][0]))["covenant"]["ingress"]
    (rule,) = [r for r in rules if r["ports"][0]["port"] == "admin"]
    assert json.dumps(rule["from"]).count("kubernetes.io/metadata.name") == 1
    assert "monitoring" in json.dumps(rule["from"])
    assert "admin" not in json.dumps(policies(shipped("local"))["covenant"])


def test_a_pooler_reaches_postgresql_but_not_the_operators_port() -> None:
    """Its pods also have the label of their cluster (cnpg.io/cluster)."""
    specs = policies(rendered_with(FEATURES["pooler"][0]))
    instances = specs["covenant-db"]["podSelector"]
    assert instances["matchLabels"] == {"cnpg.io/cluster": "covenant-db"}
    assert instances["matchExpressions"] == [
        {"key": "cnpg.io/poolerName", "operator": "DoesNotExist"}
    ]
    pooler = {"podSelector": {"matchLabels": {"cnpg.io/poolerName": "covenant-pooler"}}}
    sources = {r["ports"][0]["port"]: r["from"] for r in specs["covenant-db"]["ingress"]}
    assert pooler in sources[5432]
    assert sources[8000][0] == {"podSelector": instances}
    assert specs["covenant-pooler"]["egress"][-1] == {
        "to": [{"podSelector": instances}],
        "ports": [{"port": 5432, "protocol": "TCP"}],
    }


# PostgreSQL


def test_cloudnative_pg_manages_two_roles_that_cannot_bypass_row_level_security() -> None:
    cluster = named(shipped("production"), "Cluster", "covenant-db")
    roles = {r["name"]: r for r in cluster["spec"]["managed"]["roles"]}
    assert roles.keys() == {"covenant_owner", "covenant_app"}
    for role in roles.values():
        assert not role["superuser"]
        assert not role["bypassrls"]
    assert cluster["spec"]["instances"] == 3
    assert "Delete=false" in cluster["metadata"]["annotations"]["argocd.argoproj.io/sync-options"]
    pooler = named(shipped("production"), "Pooler", "covenant-pooler")
    assert pooler["spec"]["pgbouncer"]["poolMode"] == "transaction"
    backup = named(shipped("production"), "ScheduledBackup", "covenant-db")
    assert backup["spec"]["schedule"] == "0 0 3 * * *"
    assert "Pooler" not in kinds(shipped("local"))


# Generated contracts

labels = st.from_regex(r"[a-z]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
words = st.from_regex(r"[a-z][a-z0-9]{0,9}", fullmatch=True)
texts = st.text(
    st.characters(blacklist_categories=("Cs",), blacklist_characters="\ufeff"),
    min_size=1,
    max_size=30,
)
environments = st.fixed_dictionaries(
    {"name": labels},
    optional={
        "exposure": st.sampled_from(["ingress", "gateway", "none"]),
        "replicas": st.integers(1, 100),
        "secrets": st.sampled_from(["existing", "bootstrap"]),
        "docs": st.booleans(),
        "monitoring": st.booleans(),
        "namespace": labels,
        "cluster": labels,
    },
)
databases = st.one_of(
    st.builds(
        lambda a, b: {"mode": "external", "networks": [f"10.{a}.0.0/16"], "port": b},
        st.integers(0, 255),
        st.integers(1, 65535),
    ),
    st.builds(
        lambda n, s, p: {"mode": "cloudnative-pg", "instances": n, "storage": f"{s}Gi"} | p,
        st.integers(1, 9),
        st.integers(1, 999),
        st.sampled_from([{}, {"pooler": 3}, {"backups": "0 0 4 * * *"}, {"operator": "present"}]),
    ),
)
responses = {str(code): {"description": "x"} for code in (200, 400, 401, 404, 413, 431, 500, 503)}


@st.composite
def contracts(draw: st.DrawFn) -> dict[str, Any]:
    """Return a contract that a user could write; most are valid."""
    paths: dict[str, Any] = {
        "/health": {"get": operation("system.health", {"x-probe": ["startup", "liveness"]})},
        "/ready": {"get": operation("system.ready", {"x-probe": "readiness"})},
    }
    for name in draw(st.lists(words, unique=True, max_size=6)):
        id_ = f"{draw(words)}_id"
        extra = draw(st.sampled_from([{}, {"x-internal": True}]))
        paths[f"/{name}"] = {"get": operation(f"system.list_{name}", extra)}
        paths[f"/{name}/{{{id_}}}"] = {
            "parameters": [
                {
                    "name": id_,
                    "in": "path",
                    "required": True,
                    "schema": {"type": "string", "format": "uuid"},
                }
            ],
            draw(st.sampled_from(["get", "delete"])): operation(f"system.one_{name}", {}),
        }
    unique = st.lists(environments, min_size=1, max_size=2, unique_by=lambda e: e["name"])
    return {
        "openapi": "3.0.3",
        "info": {"title": draw(texts), "version": draw(st.sampled_from(["1.2.3", "0.1.0-rc.1"]))},
        "x-service": {
            "name": draw(labels),
            "port": draw(st.integers(1, 65535)),
            "source": {"repository": "https://git.example/x.git", "revision": "main"},
            "resources": {"limits": {"memory": draw(st.sampled_from(["512Mi", "1Gi", "2G"]))}},
        },
        "servers": [
            {
                "url": f"http{draw(st.sampled_from(['', 's']))}://{env['name']}.example",
                "description": draw(texts),
                "x-environment": {**env, "postgres": draw(databases)},
            }
            for env in draw(unique)
        ],
        "tags": [{"name": "system"}],
        "paths": paths,
    }


def operation(id_: str, extra: dict[str, Any]) -> dict[str, Any]:
    return {"operationId": id_, "tags": ["system"], "security": [], "responses": responses, **extra}


@settings(
    max_examples=200,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
@given(document=contracts())
def test_any_contract_is_rejected_or_generates_a_valid_chart(
    document: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("contract")
    file = root / "contract.yaml"
    file.write_text(literal(document), "utf-8")
    try:
        files = generated(file)
    except ContractError:
        event("rejected")
        return
    event("rendered")
    write_files(root, files)
    chart = root / "charts" / document["x-service"]["name"]
    for server in document["servers"]:
        name = server["x-environment"]["name"]
        manifests = rendered(environment_values(name, chart), chart, f"x-{name}"[:63])
        assert [e for m in manifests for e in invalid(m)] == []
        assert [e for _, pod in pod_specs(manifests) for e in unrestricted(pod)] == []
        for path in (root / "argo" / name).rglob("*.yaml"):
            for manifest in yaml.load_all(path.read_text(), yaml.CSafeLoader):
                assert invalid(manifest) == []
