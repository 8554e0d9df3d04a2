"""Charts of generated contracts: each contract is rejected or its manifests are valid."""

from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from codegen.render import literal
from openapi.contract import ContractError
from tests.platform.fix_chart import (
    environment_values,
    generated,
    invalid,
    pod_specs,
    rendered,
    unrestricted,
    write_files,
)

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
