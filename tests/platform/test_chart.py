"""The chart that the contract makes: what Kubernetes, Pod Security and the network say to it."""

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

from codegen.render import literal, merged
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
    planted,
    pod_specs,
    rendered,
    shipped,
    unrestricted,
)

PEER = [{"ipBlock": {"cidr": "10.1.2.0/24"}}]
GATEWAY = {"kind": "gateway", "host": "h.example", "edge": {"name": "g", "namespace": "edge"}}
# Every optional switch: what turns it on, and a kind or name that is there only then.
SWITCHES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
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


def with_switch(values: dict[str, Any]) -> list[Manifest]:
    return rendered(merged(BASE, values))


# Valid everywhere


def test_helm_lint_has_nothing_to_say() -> None:
    report = helm.lint(str(SHIPPED), strict=True)
    messages = [m for m in report["messages"] if m["error"] != "icon is recommended"]
    assert (messages, report["errors"]) == ([], [])


@pytest.mark.parametrize("kubernetes", KUBERNETES)
@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_every_manifest_is_valid(environment: str, kubernetes: str) -> None:
    assert [fault for m in shipped(environment) for fault in invalid(m, kubernetes)] == []


@pytest.mark.parametrize("switch", SWITCHES)
def test_every_switch_can_be_on_and_off(switch: str) -> None:
    on, off, mark = SWITCHES[switch]
    for values, there in ((on, True), (off, False)):
        manifests = with_switch(values)
        assert [f for m in manifests for v in ("1.31", "1.37") for f in invalid(m, v)] == []
        assert [f for _, pod in pod_specs(manifests) for f in unrestricted(pod)] == []
        assert (mark in yaml.safe_dump_all(manifests)) is there


def test_kubernetes_validate_itself_agrees() -> None:
    for manifest in shipped("local"):
        if manifest["kind"] != "Cluster":
            kubernetes_validate.validate(manifest, KUBERNETES[-1], strict=True)


def test_a_manifest_that_kubernetes_refuses_is_seen() -> None:
    broken = json.loads(json.dumps(named(shipped("local"), "Deployment", "covenant")))
    broken["spec"]["strategie"] = {}
    broken["metadata"]["labels"]["app.kubernetes.io/version"] = "1.0+x"
    faults = invalid(broken)
    assert len(faults) == 2
    cluster = json.loads(json.dumps(named(shipped("local"), "Cluster", "covenant-db")))
    cluster["spec"]["instanzes"] = 1
    assert len(invalid(cluster)) == 1
    metered = with_switch(SWITCHES["metrics"][0])
    rules = json.loads(json.dumps(named(metered, "PrometheusRule", "covenant")))
    rules["spec"]["groups"][0]["rules"][0]["labels"]["le"] = 0.25
    del rules["spec"]["groups"][1]["rules"][0]["expr"]
    assert len(invalid(rules)) == 2
    assert invalid({"kind": "Cronjob", "apiVersion": "batch/v1", "metadata": {"name": "x"}})


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_every_manifest_names_its_namespace_and_its_owner(environment: str) -> None:
    for manifest in shipped(environment):
        assert manifest["metadata"]["namespace"] == f"covenant-{environment}"
        labels = manifest["metadata"]["labels"]
        assert labels["app.kubernetes.io/name"] == "covenant"
        assert labels["app.kubernetes.io/component"]


def test_rendering_is_quick_and_always_the_same() -> None:
    began = time.perf_counter()
    first, second = (rendered(environment_values("production")) for _ in range(2))
    assert first == second
    assert time.perf_counter() - began < 5


def test_a_fixed_contract_makes_the_golden_files() -> None:
    """A change here is meant: `python -m tests.platform.fix_chart` writes the files anew."""
    files = {file.name: file.read_text("utf-8") for file in (HERE / "golden").glob("*.yaml")}
    assert golden() == files


# Values


@pytest.mark.parametrize(
    ("values", "place"),
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
def test_a_value_that_is_not_known_fails_the_render(values: dict[str, Any], place: str) -> None:
    with pytest.raises(helm.HelmError, match=place):
        rendered(values)


def test_the_schema_is_closed_and_knows_every_default() -> None:
    schema = json.loads((SHIPPED / "values.schema.json").read_text())
    defaults = yaml.safe_load((SHIPPED / "values.yaml").read_text())

    def closed(node: Any, place: str) -> None:
        if isinstance(node, dict):
            if "properties" in node and node.get("type") == "object":
                assert node.get("additionalProperties") is False, place
            for key, child in node.items():
                closed(child, f"{place}/{key}")

    def known(node: Any, values: Any, place: str) -> None:
        while "$ref" in node:
            node = schema["$defs"][node["$ref"].rpartition("/")[2]]
        if isinstance(values, dict) and "properties" in node:
            assert values.keys() <= node["properties"].keys(), place
            for key, value in values.items():
                known(node["properties"][key], value, f"{place}/{key}")

    closed(schema, "#")
    known(schema, defaults, "#")
    assert defaults.keys() == schema["properties"].keys() - {"global"}


# Pods


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_every_pod_passes_restricted(environment: str) -> None:
    pods = list(pod_specs(shipped(environment)))
    assert {name for name, _ in pods} >= {
        "Deployment/covenant",
        "Job/covenant-migration",
        "Job/covenant-test-sign-in",
        "Job/covenant-test-create",
        "Job/covenant-test-tenants",
    }
    assert [(name, fault) for name, pod in pods for fault in unrestricted(pod)] == []


def test_no_token_of_the_cluster_is_mounted_but_in_the_bootstrap() -> None:
    for environment in ENVIRONMENTS:
        for name, pod in pod_specs(shipped(environment)):
            mounted = "serviceAccountToken" in json.dumps(pod.get("volumes", []))
            assert mounted is (name == "Job/covenant-bootstrap")


def test_the_bootstrap_may_create_secrets_and_nothing_else() -> None:
    role = named(shipped("local"), "Role", "covenant-bootstrap")
    assert role["rules"] == [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]}]


def test_probes_differ_and_liveness_never_touches_the_database() -> None:
    (pod,) = [p for n, p in pod_specs(shipped("local")) if n == "Deployment/covenant"]
    container = pod["containers"][0]
    startup, liveness, readiness = (
        container[f"{kind}Probe"] for kind in ("startup", "liveness", "readiness")
    )
    assert startup["httpGet"]["path"] == liveness["httpGet"]["path"] == "/health"
    assert readiness["httpGet"]["path"] == "/ready"
    assert len({json.dumps(p, sort_keys=True) for p in (startup, liveness, readiness)}) == 3


def test_the_grace_period_covers_the_whole_stop() -> None:
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


def test_a_rollout_never_has_fewer_pods_than_wanted() -> None:
    for environment in ENVIRONMENTS:
        deployment = named(shipped(environment), "Deployment", "covenant")
        assert deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


def test_replicas_are_the_hpas_alone_where_there_is_one() -> None:
    for environment in ENVIRONMENTS:
        scaled = "HorizontalPodAutoscaler" in kinds(shipped(environment))
        deployment = named(shipped(environment), "Deployment", "covenant")
        assert ("replicas" in deployment["spec"]) is not scaled
    assert "HorizontalPodAutoscaler" in kinds(shipped("production"))
    assert "HorizontalPodAutoscaler" not in kinds(shipped("local"))


def test_other_settings_roll_the_pods() -> None:
    hashes = {
        named(with_switch(values), "Deployment", "covenant")["spec"]["template"]["metadata"][
            "annotations"
        ]["settings/hash"]
        for values in ({}, {"settings": {"CORS_ORIGINS": "https://a.example"}})
    }
    assert len(hashes) == 2


def test_every_setting_is_one_that_the_service_reads() -> None:
    read = {name.upper() for name in Settings.model_fields} | set(OTHER_SETTINGS)
    for environment in ENVIRONMENTS:
        data = named(shipped(environment), "ConfigMap", "covenant-settings")["data"]
        assert data.keys() <= read
        for _, pod in pod_specs(shipped(environment)):
            for variable in pod["containers"][0].get("env", []):
                if "secretKeyRef" in variable.get("valueFrom", {}):
                    assert variable["name"] in read


def test_the_edge_is_believed_when_it_names_the_client() -> None:
    """Else the limit of guests would count the gateway, and not its clients."""
    settings = named(shipped("production"), "ConfigMap", "covenant-settings")["data"]
    assert "10.0.0.0/8" in settings["TRUSTED_PROXIES"].split(",")
    assert "0.0.0.0/0" not in settings["TRUSTED_PROXIES"]


def test_the_contracts_hash_is_on_the_chart_and_on_every_pod_that_serves() -> None:
    digest = f"sha256:{contract.load().hash}"
    chart = yaml.safe_load((SHIPPED / "Chart.yaml").read_text())
    assert chart["annotations"] == {"contract/hash": digest}
    deployment = named(shipped("production"), "Deployment", "covenant")
    annotations = deployment["spec"]["template"]["metadata"]["annotations"]
    assert annotations["contract/hash"] == digest


def test_no_secret_is_in_the_chart() -> None:
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


# What reaches the service


@pytest.mark.parametrize("environment", ["staging", "production"])
def test_the_gateway_lets_exactly_the_declared_operations_in(environment: str) -> None:
    matches = [
        match
        for rule in named(shipped(environment), "HTTPRoute", "covenant")["spec"]["rules"]
        for match in rule["matches"]
    ]

    def routed(method: str, path: str) -> bool:
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
        internal = operation.extensions.get("x-internal", False)
        assert routed(operation.method.upper(), path) is not internal, operation.id
        declared = {o.method.upper() for o in operations if o.path == operation.path}
        for method in {"GET", "PUT", "POST", "DELETE", "PATCH", "TRACE"} - declared:
            assert not routed(method, path), (method, path)
    for path in ("/metrics", "/openapi.json", "/ui", "/orgs/1/members", "/orgs/", "//orgs", "/x"):
        assert not routed("GET", path), path
    assert len(matches) == len([o for o in operations if not o.extensions.get("x-internal")])


def test_an_ingress_takes_only_the_heads_of_declared_paths() -> None:
    rule = named(shipped("local"), "Ingress", "covenant")["spec"]["rules"][0]
    assert rule["host"] == "api.localhost"
    paths = {(p["pathType"], p["path"]) for p in rule["http"]["paths"]}
    assert ("Exact", "/health") in paths
    assert ("Prefix", "/orgs") in paths
    assert ("Prefix", "/") not in paths
    assert not any(path == "/ready" for _, path in paths)


def test_many_operations_take_several_routes(tmp_path: Path) -> None:
    routes = [{"exact": f"/a{i}", "methods": ["GET", "POST"]} for i in range(70)]
    manifests = with_switch({"exposure": GATEWAY, "routes": routes})
    found = [m for m in manifests if m["kind"] == "HTTPRoute"]
    assert [len(m["spec"]["rules"][0]["matches"]) for m in found] == [64, 64, 12]
    assert len({m["metadata"]["name"] for m in found}) == 3


# The network


def policies(manifests: Any) -> dict[str, Manifest]:
    return {m["metadata"]["name"]: m["spec"] for m in manifests if m["kind"] == "NetworkPolicy"}


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_everything_is_denied_that_is_not_listed(environment: str) -> None:
    found = policies(shipped(environment))
    assert found["covenant-deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for spec in found.values():
        assert spec["policyTypes"] == ["Ingress", "Egress"]
    components = {
        m["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/component"]
        for m in shipped(environment)
        if m["kind"] in ("Deployment", "Job")
    }
    selected = {
        spec["podSelector"].get("matchLabels", {}).get("app.kubernetes.io/component")
        for spec in found.values()
    }
    assert components <= selected


def reached(spec: Manifest) -> set[tuple[str, int]]:
    """Return where a policy lets its pods go to: the peer's last word, and the port."""
    return {
        (re.findall(r'"([^"]+)"', json.dumps(peer))[-1], port["port"])
        for rule in spec["egress"]
        for peer in rule.get("to", [{"to": "anywhere"}])
        for port in rule["ports"]
    }


def test_the_service_reaches_dns_and_its_database_only() -> None:
    dns = ("kube-system", 53)
    assert reached(policies(shipped("local"))["covenant"]) == {dns, ("covenant-db", 5432)}
    everything = with_switch(
        {name: SWITCHES[name][0][name] for name in ("redis", "tracing", "metrics")}
    )
    assert reached(policies(everything)["covenant"]) == {
        dns,
        ("10.1.2.0/24", 5432),
        ("10.1.2.0/24", 6379),
        ("10.1.2.0/24", 4318),
    }
    assert reached(policies(shipped("local"))["covenant-migration"]) == {dns, ("covenant-db", 5432)}
    assert reached(policies(shipped("local"))["covenant-test"]) == {dns, ("service", "http")}


def test_only_monitoring_reaches_the_admin_port() -> None:
    entries = policies(with_switch(SWITCHES["metrics"][0]))["covenant"]["ingress"]
    (entry,) = [e for e in entries if e["ports"][0]["port"] == "admin"]
    assert json.dumps(entry["from"]).count("kubernetes.io/metadata.name") == 1
    assert "monitoring" in json.dumps(entry["from"])
    assert "admin" not in json.dumps(policies(shipped("local"))["covenant"])


def test_a_pooler_reaches_postgresql_and_not_the_port_of_its_operator() -> None:
    """Its pods bear the label of their cluster as well (cnpg.io/cluster)."""
    found = policies(with_switch(SWITCHES["pooler"][0]))
    instances = found["covenant-db"]["podSelector"]
    assert instances["matchLabels"] == {"cnpg.io/cluster": "covenant-db"}
    assert instances["matchExpressions"] == [
        {"key": "cnpg.io/poolerName", "operator": "DoesNotExist"}
    ]
    pooler = {"podSelector": {"matchLabels": {"cnpg.io/poolerName": "covenant-pooler"}}}
    entries = {e["ports"][0]["port"]: e["from"] for e in found["covenant-db"]["ingress"]}
    assert pooler in entries[5432]
    assert entries[8000][0] == {"podSelector": instances}
    assert found["covenant-pooler"]["egress"][-1] == {
        "to": [{"podSelector": instances}],
        "ports": [{"port": 5432, "protocol": "TCP"}],
    }


# PostgreSQL


def test_cloudnative_pg_manages_two_roles_that_pass_no_policy() -> None:
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


# Contracts not yet written

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
answers = {str(code): {"description": "x"} for code in (200, 400, 401, 404, 413, 431, 500, 503)}


@st.composite
def contracts(draw: st.DrawFn) -> dict[str, Any]:
    """Return a contract as a user could write it, mostly without faults."""
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
    found = draw(st.lists(environments, min_size=1, max_size=2, unique_by=lambda e: e["name"]))
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
            for env in found
        ],
        "tags": [{"name": "system"}],
        "paths": paths,
    }


def operation(id_: str, extra: dict[str, Any]) -> dict[str, Any]:
    return {"operationId": id_, "tags": ["system"], "security": [], "responses": answers, **extra}


@settings(
    max_examples=200,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
@given(document=contracts())
def test_any_contract_is_refused_or_makes_a_valid_chart(
    document: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("contract")
    file = root / "contract.yaml"
    file.write_text(literal(document), "utf-8")
    try:
        files = generated(file)
    except ContractError:
        event("refused")
        return
    event("rendered")
    planted(root, files)
    chart = root / "charts" / document["x-service"]["name"]
    for server in document["servers"]:
        name = server["x-environment"]["name"]
        manifests = rendered(environment_values(name, chart), chart, f"x-{name}"[:63])
        assert [f for m in manifests for f in invalid(m)] == []
        assert [f for _, pod in pod_specs(manifests) for f in unrestricted(pod)] == []
        for path in (root / "argo" / name).rglob("*.yaml"):
            for manifest in yaml.load_all(path.read_text(), yaml.CSafeLoader):
                assert invalid(manifest) == []
