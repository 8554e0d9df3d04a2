"""The network of the chart: what the edge routes, and which connections the policies allow."""

import json
import re
from typing import Any

import pytest

from openapi import contract
from tests.platform.fix_chart import ENVIRONMENTS, Manifest, named, shipped
from tests.platform.fix_features import FEATURES, GATEWAY, rendered_with

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
        is_public = not all(
            o.extensions.get("x-internal") for o in operations if o.path == operation.path
        )
        assert is_routed("OPTIONS", path) is is_public, path  # CORS preflights
        assert is_routed("HEAD", path) is (is_public and is_routed("GET", path)), path
        for method in {"GET", "PUT", "POST", "DELETE", "PATCH", "TRACE"} - declared:
            assert not is_routed(method, path), (method, path)
    for path in ("/metrics", "/openapi.json", "/ui", "/orgs/1/members", "/orgs/", "//orgs", "/x"):
        assert not is_routed("GET", path), path
    assert len({json.dumps(match) for match in matches}) == len(matches)


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
