"""The generated Argo CD manifests: Applications, their Projects, and their sources."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from openapi import contract
from tests.platform.fix_chart import ENVIRONMENTS, ROOT, Manifest, invalid, named, shipped

ARGO = ROOT / "argo"
SOURCE = contract.load(handlers=None).service["source"]
APPS = ("project.yaml", "application.yaml", "cloudnative-pg.yaml")


def manifests(environment: str) -> list[Manifest]:
    """Return every Argo CD manifest of an environment."""
    files = sorted((ARGO / environment).rglob("*.yaml"))
    return [m for file in files for m in yaml.safe_load_all(file.read_text("utf-8"))]


def granted_kinds(project: Manifest) -> set[tuple[str, str]]:
    return {(k["group"], k["kind"]) for k in project["spec"]["namespaceResourceWhitelist"]}


def group_and_kind(manifest: Manifest) -> tuple[str, str]:
    version = manifest["apiVersion"]
    return (version.partition("/")[0] if "/" in version else "", manifest["kind"])


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_every_manifest_is_valid(environment: str) -> None:
    assert [error for m in manifests(environment) for error in invalid(m)] == []


def test_an_invalid_application_is_detected() -> None:
    broken: Any = named(manifests("local"), "Application", "covenant-local")
    broken["spec"]["syncPolicy"]["automatic"] = {}
    assert len(invalid(broken)) == 1


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_an_application_prunes_heals_and_retries(environment: str) -> None:
    application = named(manifests(environment), "Application", f"covenant-{environment}")
    policy = application["spec"]["syncPolicy"]
    assert policy["automated"] == {"prune": True, "selfHeal": True}
    assert policy["retry"]["backoff"]["factor"] > 1
    assert {"CreateNamespace=true", "ServerSideApply=true"} <= set(policy["syncOptions"])
    labels = policy["managedNamespaceMetadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    assert "ignoreDifferences" not in application["spec"]


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_an_application_renders_the_chart_with_existing_values(environment: str) -> None:
    application = named(manifests(environment), "Application", f"covenant-{environment}")
    source = application["spec"]["source"]
    for file in source["helm"]["valueFiles"]:
        assert (ROOT / source["path"] / file).is_file()
    namespaces = {m["metadata"]["namespace"] for m in shipped(environment)}
    assert namespaces == {application["spec"]["destination"]["namespace"]}


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_a_project_grants_the_kinds_of_its_application_and_no_secret(environment: str) -> None:
    project = named(manifests(environment), "AppProject", f"covenant-{environment}")
    assert {group_and_kind(m) for m in shipped(environment)} <= granted_kinds(project)
    assert ("", "Secret") not in granted_kinds(project)
    assert project["spec"]["clusterResourceWhitelist"] == [{"group": "", "kind": "Namespace"}]


def test_no_project_grants_everything() -> None:
    for environment in ENVIRONMENTS:
        for manifest in manifests(environment):
            assert "*" not in yaml.safe_dump(manifest.get("spec")), manifest["metadata"]["name"]
            if manifest["kind"] == "Application":
                assert manifest["spec"]["project"] != "default"


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_every_application_stays_inside_its_project(environment: str) -> None:
    generated = manifests(environment)
    for application in (m for m in generated if m["kind"] == "Application"):
        spec = application["spec"]
        project = named(generated, "AppProject", spec["project"])["spec"]
        assert spec["source"]["repoURL"] in project["sourceRepos"]
        assert spec["destination"] in project["destinations"]


def test_only_the_contract_names_the_repository_and_its_revision() -> None:
    for environment in ENVIRONMENTS:
        for application in (m for m in manifests(environment) if m["kind"] == "Application"):
            source = application["spec"]["source"]
            if application["metadata"]["name"] != "cloudnative-pg":
                assert source["repoURL"] == SOURCE["repository"]
                assert source["targetRevision"] == SOURCE["revision"]
    mentions = [
        file
        for folder in ("codegen", "openapi")
        for file in (ROOT / folder).rglob("*")
        if file.is_file()
        and file.suffix != ".pyc"
        and SOURCE["repository"] in file.read_text("utf-8")
    ]
    assert mentions == [contract.DEFAULT]


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_the_root_application_includes_every_manifest_but_its_own(environment: str) -> None:
    root = named(manifests(environment), "Application", f"covenant-{environment}-root")
    folder = ROOT / root["spec"]["source"]["path"]
    assert {file.name for file in folder.iterdir()} == set(APPS)
    project = named(manifests(environment), "AppProject", f"covenant-{environment}-root")
    included = [m for file in folder.iterdir() for m in yaml.safe_load_all(file.read_text("utf-8"))]
    assert {group_and_kind(m) for m in included} == granted_kinds(project)


def test_the_operator_is_pinned_to_a_commit() -> None:
    operator = named(manifests("local"), "Application", "cloudnative-pg")["spec"]["source"]
    assert len(operator["targetRevision"]) == 40
    assert set(operator["targetRevision"]) <= set("0123456789abcdef")


def test_every_environment_has_a_folder() -> None:
    assert {folder.name for folder in ARGO.iterdir()} == set(ENVIRONMENTS)
    assert all(Path(folder, "root.yaml").is_file() for folder in ARGO.iterdir())
