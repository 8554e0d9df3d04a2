"""Checkov on everything that the chart renders: `make scan`. Not collected by `make test`.

Checkov lives in an environment of its own (requirements/checkov.txt); CHECKOV names its command.
"""

import json
import os
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from codegen.render import merged
from tests.platform.fix_chart import ENVIRONMENTS, ROOT, environment_values, rendered, shipped
from tests.platform.test_chart import BASE, SWITCHES

CHECKOV = os.environ.get("CHECKOV", str(ROOT / ".venv" / "checkov" / "bin" / "checkov"))
# At most three, each with its reason.
SKIPPED = {
    "CKV_K8S_43": "a digest is known once the image was pushed; git holds none that nobody saw",
    "CKV_K8S_15": "a tag names one version for ever, and a local cluster has no registry to ask",
    "CKV_K8S_35": "the service reads its database's URL from the environment, and no other secret",
}


@cache
def everything_on() -> tuple[dict[str, Any], ...]:
    values = BASE
    for name in ("bootstrap", "pooler", "backup", "redis", "tracing", "metrics", "scaling", "tls"):
        values = merged(values, SWITCHES[name][0])
    return tuple(rendered(values, namespace="covenant-all"))


def scan(folder: Path, manifests: Any, *options: str) -> tuple[dict[str, int], set[str]]:
    """Return Checkov's summary, and the rules that fail."""
    file = folder / "all.yaml"
    file.write_text(yaml.safe_dump_all(manifests), "utf-8")
    command = [CHECKOV, "-f", str(file), "--framework", "kubernetes", "--skip-download"]
    done = subprocess.run(
        [*command, "--output", "json", "--soft-fail", *options],
        capture_output=True,
        text=True,
        timeout=300,
    )
    report = json.loads(done.stdout)
    failed = {check["check_id"] for check in report["results"]["failed_checks"]}
    return report["summary"], failed


@pytest.mark.parametrize("environment", [*ENVIRONMENTS, "everything on"])
def test_checkov_fails_nothing(tmp_path: Path, environment: str) -> None:
    manifests = everything_on() if environment not in ENVIRONMENTS else shipped(environment)
    summary, failed = scan(tmp_path, manifests, "--skip-check", ",".join(SKIPPED))
    print(f"{environment}: {summary['passed']} passed, {summary['failed']} failed")
    assert failed == set()
    assert summary["parsing_errors"] == 0
    assert summary["resource_count"] >= 15


def test_every_skip_is_still_needed_and_gives_its_reason(tmp_path: Path) -> None:
    _, failed = scan(tmp_path, shipped("production"))
    assert failed == set(SKIPPED)
    assert len(SKIPPED) <= 3
    assert all(len(reason.split()) > 5 for reason in SKIPPED.values())


def test_checkov_sees_a_pod_that_may_do_anything(tmp_path: Path) -> None:
    values = environment_values("local")
    manifests = json.loads(json.dumps(rendered(values)))
    for manifest in manifests:
        if manifest["kind"] == "Deployment":
            container = manifest["spec"]["template"]["spec"]["containers"][0]
            container["securityContext"] = {"privileged": True}
    _, failed = scan(tmp_path, manifests)
    assert "CKV_K8S_16" in failed
