"""`python -m codegen.manifests ENVIRONMENT`: what Argo CD would apply, in its order; no cluster."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helm_python as helm
import yaml

from openapi import contract

ROOT = Path(__file__).resolve().parent.parent
WAVE = "argocd.argoproj.io/sync-wave"


def main(arguments: list[str]) -> int:
    """Print the manifests of the environment named; return 1 if there is none of that name."""
    chart = ROOT / "charts" / contract.load(handlers=None).name
    known = sorted(file.stem for file in (chart / "environments").glob("*.yaml"))
    if len(arguments) != 1 or arguments[0] not in known:
        sys.stderr.write(f"usage: make manifests ENV={'|'.join(known)}\n")
        return 1
    (environment,) = arguments
    argo = ROOT / "argo" / environment / "apps" / "application.yaml"
    namespace = yaml.safe_load(argo.read_text("utf-8"))["spec"]["destination"]["namespace"]
    values = yaml.safe_load((chart / "environments" / f"{environment}.yaml").read_text("utf-8"))
    with helm.Chart.load(str(chart)) as loaded:
        templates = loaded.render(values, name=chart.name, namespace=namespace)
    found = sorted(_applied(templates), key=_wave)
    yaml.safe_dump_all(found, sys.stdout, sort_keys=False, width=100)
    return 0


def _applied(templates: dict[str, str]) -> Iterator[dict[str, Any]]:
    for name, text in sorted(templates.items()):
        for document in yaml.safe_load_all(text) if name.endswith(".yaml") else ():
            annotations = (document or {}).get("metadata", {}).get("annotations", {})
            is_helms_own = "helm.sh/hook" in annotations and (
                "argocd.argoproj.io/hook" not in annotations
            )
            if document and not is_helms_own:
                yield document


def _wave(manifest: dict[str, Any]) -> int:
    return int(manifest["metadata"]["annotations"].get(WAVE, 0))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
