"""The generated chart, rendered by Helm, and checks against Kubernetes and Pod Security."""

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import helm_python as helm
import jsonschema_rs
import kubernetes_validate
import yaml

from codegen.__main__ import generate
from codegen.files import Files
from codegen.overrides import Overrides

Manifest = dict[str, Any]

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SHIPPED = ROOT / "charts" / "covenant"
ENVIRONMENTS = ("local", "staging", "production")
KUBERNETES = [f"1.{minor}" for minor in range(31, 38)]
SCHEMAS = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema"
# RFC 1123, and the API server's rule for label values.
LABEL_VALUE = re.compile(r"(?=.{1,63}$)[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
OBJECT_NAME = re.compile(r"(?=.{1,63}$)[a-z0-9]([a-z0-9-]*[a-z0-9])?")


def generated(contract: Path) -> Files:
    """Return the files generated from a contract without handlers and overrides."""
    return generate(contract, None, Overrides())


def write_files(root: Path, files: Files) -> Path:
    """Write generated files below `root` and return it."""
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")
    return root


def environment_values(environment: str, chart: Path = SHIPPED) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load(
        (chart / "environments" / f"{environment}.yaml").read_text("utf-8")
    )
    return values


def rendered(
    values: Mapping[str, Any], chart: Path = SHIPPED, namespace: str = "covenant-test"
) -> list[Manifest]:
    """Return every manifest that Helm renders, in the order of the template names."""
    with helm.Chart.load(str(chart)) as loaded:
        templates = loaded.render(dict(values), name=chart.name, namespace=namespace)
    return list(documents(templates))


@cache
def shipped(environment: str) -> tuple[Manifest, ...]:
    """Return the manifests of one environment, shared between tests: do not modify them."""
    return tuple(rendered(environment_values(environment), namespace=f"covenant-{environment}"))


def documents(templates: Mapping[str, str]) -> Iterator[Manifest]:
    for name, text in sorted(templates.items()):
        if name.endswith(".yaml"):
            yield from (
                document for document in yaml.load_all(text, Loader=yaml.CSafeLoader) if document
            )


def named(manifests: Any, kind: str, name: str) -> Manifest:
    """Return the one manifest of a kind and name."""
    (match,) = [m for m in manifests if m["kind"] == kind and m["metadata"]["name"] == name]
    return dict(match)


def kinds(manifests: Any) -> set[str]:
    return {m["kind"] for m in manifests}


def pod_specs(manifests: Any) -> Iterator[tuple[str, Manifest]]:
    """Yield (kind/name, pod spec) of every manifest with a pod template."""
    for manifest in manifests:
        if "template" in manifest.get("spec", {}):
            name = f"{manifest['kind']}/{manifest['metadata']['name']}"
            yield name, manifest["spec"]["template"]["spec"]


@cache
def custom_schema(kind: str) -> Any:
    file = HERE / "schemas" / f"{kind}.json"
    if not file.exists():
        return None
    schema = json.loads(file.read_text())
    schema["properties"]["apiVersion"] = {"const": schema.pop("apiVersion")}
    schema["properties"]["kind"] = {"const": kind}
    return jsonschema_rs.validator_for(schema)


@cache
def definitions(kubernetes: str) -> tuple[str, Any]:
    (folder,) = SCHEMAS.glob(f"v{kubernetes}.*-local-strict")
    contents = json.loads((folder / "_definitions.json").read_text())
    return folder.name, jsonschema_rs.Registry([(contents["$id"], contents)])


@cache
def strict_schema(kind: str, api_version: str, kubernetes: str) -> Any:
    """Return a schema of kubernetes-validate, whose `validate` reads 5 MB on every call."""
    folder, registry = definitions(kubernetes)
    version = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", api_version)
    file = SCHEMAS / folder / f"{kind.lower()}-{version}.json"
    if not file.exists():
        return None
    return jsonschema_rs.validator_for(json.loads(file.read_text()), registry=registry)


def invalid(manifest: Manifest, kubernetes: str = KUBERNETES[0]) -> list[str]:
    """Return the reasons to reject a manifest, as the API server would, or for unknown fields."""
    where = f"{manifest['kind']}/{manifest['metadata'].get('name')}"
    errors = [f"{where}: {error}" for error in invalid_metadata(manifest)]
    if custom := custom_schema(manifest["kind"]):
        return errors + [
            f"{where}: {list(error.instance_path)}: {error.message}"
            for error in custom.iter_errors(manifest)
        ]
    validator = strict_schema(manifest["kind"], manifest["apiVersion"], kubernetes)
    if validator is None:
        return [*errors, f"{where}: unknown kind"]
    errors += [
        f"{where}: {list(error.instance_path)}: {error.message}"
        for error in validator.iter_errors(manifest)
    ]
    return errors


def invalid_metadata(manifest: Manifest) -> Iterator[str]:
    """Yield names, labels and annotations that only the API server rejects, not the schemas."""
    metadata = manifest["metadata"]
    if not OBJECT_NAME.fullmatch(metadata["name"]):
        yield f"name {metadata['name']!r}"
    template = manifest.get("spec", {}).get("template", {}).get("metadata", {})
    for labels in (metadata.get("labels", {}), template.get("labels", {})):
        for key, value in labels.items():
            if not isinstance(value, str) or not LABEL_VALUE.fullmatch(value):
                yield f"label {key}: {value!r}"
    for annotations in (metadata.get("annotations", {}), template.get("annotations", {})):
        for key, value in annotations.items():
            if not isinstance(value, str):
                yield f"annotation {key}: {value!r}"


def unrestricted(pod: Manifest) -> Iterator[str]:
    """Yield violations of Pod Security "restricted" (kubernetes.io) and of stricter practice."""
    context = pod.get("securityContext", {})
    for key in ("hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"):
        if pod.get(key):
            yield key
    for volume in pod.get("volumes", []):
        kind = next(key for key in volume if key != "name")
        if kind not in ("configMap", "emptyDir", "projected", "secret"):
            yield f"volume {kind}"
    if pod.get("automountServiceAccountToken") is not False:
        yield "automountServiceAccountToken"
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        effective = {**context, **container.get("securityContext", {})}
        if effective.get("runAsNonRoot") is not True or not effective.get("runAsUser"):
            yield "runs as root"
        if effective.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
            yield "seccompProfile"
        if effective.get("allowPrivilegeEscalation") is not False or effective.get("privileged"):
            yield "allowPrivilegeEscalation"
        if effective.get("capabilities") != {"drop": ["ALL"]}:
            yield "capabilities"
        if effective.get("readOnlyRootFilesystem") is not True:
            yield "readOnlyRootFilesystem"
        if any("hostPort" in port for port in container.get("ports", [])):
            yield "hostPort"
        resources = container.get("resources", {})
        for part, name in (("requests", "cpu"), ("requests", "memory"), ("limits", "memory")):
            if name not in resources.get(part, {}):
                yield f"resources.{part}.{name}"


def golden() -> dict[str, str]:
    """Return the manifests of one fixed contract as YAML, by the name of the golden file."""
    files = generated(HERE / "contracts" / "generate_golden.yaml")
    with TemporaryDirectory() as root:
        chart = write_files(Path(root), files) / "charts" / "golden"
        manifests = {
            environment: rendered(environment_values(environment, chart), chart, "golden")
            for environment in ENVIRONMENTS
        }
    return {
        f"{environment}.yaml": yaml.dump_all(
            parsed, Dumper=yaml.CSafeDumper, sort_keys=False, width=100
        )
        for environment, parsed in manifests.items()
    }


if __name__ == "__main__":
    for name, text in golden().items():
        (HERE / "golden").mkdir(exist_ok=True)
        (HERE / "golden" / name).write_text(text, "utf-8")
