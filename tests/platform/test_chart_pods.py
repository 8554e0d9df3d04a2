"""The pods of the chart: security, probes, shutdown, settings, secrets, order of deployment."""

import json
import re

import pytest
import yaml

from openapi import contract
from service.settings import OTHER_SETTINGS, Settings
from tests.platform.fix_chart import (
    ENVIRONMENTS,
    ROOT,
    SHIPPED,
    kinds,
    named,
    pod_specs,
    shipped,
    unrestricted,
)
from tests.platform.fix_features import rendered_with

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
    shutdown = yaml.safe_load((SHIPPED / "values.yaml").read_text())["shutdown"]
    settings = named(shipped("local"), "ConfigMap", "covenant-settings")["data"]
    assert settings["DRAIN_SECONDS"] == str(shutdown["drainSeconds"])
    source = (ROOT / "service" / "http" / "server.py").read_text()
    grace = re.search(r"^SHUTDOWN_GRACE_SECONDS = (\d+)$", source, re.MULTILINE)
    assert grace
    assert shutdown["finishSeconds"] >= int(grace[1])
    assert pod["terminationGracePeriodSeconds"] > sum(shutdown.values())
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
