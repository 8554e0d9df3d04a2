"""`python -m codegen.manifests ENVIRONMENT`: print what Argo CD applies, by wave, offline."""

import re
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import helm_python as helm
import yaml

from codegen.console import EXIT_ERROR, run, write_stdout
from openapi import contract
from openapi.contract import ContractError, Issue

ROOT = Path(__file__).resolve().parent.parent
WAVE = "argocd.argoproj.io/sync-wave"
HELM_HOOK, ARGO_HOOK = "helm.sh/hook", "argocd.argoproj.io/hook"


def main(arguments: list[str], root: Path = ROOT, file: Path = contract.DEFAULT) -> int:
    """Print the manifests of one environment and return 0; return 2 if they cannot be rendered."""
    return run(partial(_main, arguments, root, file))


def _main(arguments: list[str], root: Path, file: Path) -> int:
    name = contract.load(file, handlers=None).name
    chart = root / "charts" / name
    environments = sorted(values.stem for values in (chart / "environments").glob("*.yaml"))
    if not environments:
        return _fail(f"charts/{name} is missing. Run `make generate`")
    if len(arguments) != 1 or arguments[0] not in environments:
        unknown = f"unknown environment {' '.join(arguments)!r}. " if arguments else ""
        return _fail(f"{unknown}Usage: make manifests ENV={'|'.join(environments)}")
    (environment,) = arguments
    try:
        namespace = _namespace(root / "argo" / environment / "apps" / "application.yaml")
    except (yaml.YAMLError, LookupError, TypeError):
        return _fail(f"argo/{environment} is not what was generated. Run `make generate`")
    try:
        values = yaml.safe_load((chart / "environments" / f"{environment}.yaml").read_text("utf-8"))
        with helm.Chart.load(str(chart)) as loaded:
            templates = loaded.render(values, name=name, namespace=namespace)
    except (helm.HelmError, yaml.YAMLError) as error:
        return _fail(f"charts/{name} cannot be rendered: {error}")
    manifests = sorted(_applied(templates), key=_wave)
    write_stdout(yaml.safe_dump_all(manifests, sort_keys=False, width=100))
    return 0


def _namespace(application: Path) -> Any:
    return yaml.safe_load(application.read_text("utf-8"))["spec"]["destination"]["namespace"]


def _applied(templates: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Yield every manifest but Helm's own hooks, which Argo CD does not apply.

    Raises `ContractError` for a template that renders something else.
    """
    for name, text in sorted(templates.items()):
        try:
            manifests = [*yaml.safe_load_all(text)] if name.endswith(".yaml") else []
        except (yaml.YAMLError, ValueError) as error:
            raise _not_a_manifest(name, f"renders invalid YAML: {error}") from error
        for manifest in filter(None, manifests):
            if not isinstance(manifest, dict) or not isinstance(manifest.get("metadata"), dict):
                raise _not_a_manifest(name, "does not render a manifest: metadata is missing")
            annotations = manifest["metadata"].get("annotations") or {}
            if HELM_HOOK not in annotations or ARGO_HOOK in annotations:
                yield manifest


def _wave(manifest: Mapping[str, Any]) -> int:
    """Return the sync wave; 0 if there is none or it is not a number, as in Argo CD."""
    wave = str((manifest["metadata"].get("annotations") or {}).get(WAVE, 0))
    return int(wave) if re.fullmatch(r"[+-]?[0-9]{1,9}", wave) else 0


def _not_a_manifest(name: str, reason: str) -> ContractError:
    return ContractError([Issue(f"charts/{name}", 1, "document", reason)])


def _fail(message: str) -> int:
    sys.stderr.write(f"{message}\n")
    return EXIT_ERROR


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
