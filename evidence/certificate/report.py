"""Write the certificate: JSON for machines, one HTML page for whoever reviews the security."""

import json
import os
from pathlib import Path
from typing import Any

import jinja2

from evidence.certificate.matrix import ATTACK_VECTORS, IDENTITIES
from evidence.certificate.results import Certificate, Run, as_json, redacted

NAMES = ("certificate.json", "certificate.html")
MARKS = {"pass": "✓", "fail": "✗", "n/a": "·"}


def remove(folder: Path) -> None:
    """Remove the certificate of an earlier run, so that a crash leaves none behind."""
    for name in NAMES:
        (folder / name).unlink(missing_ok=True)


def write(certificate: Certificate, folder: Path) -> None:
    """Write both files, each whole or not at all; the JSON last, since it is what counts."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = as_json(certificate)
    for name, text in (
        ("certificate.html", html(certificate)),
        ("certificate.json", json.dumps(whole, indent=1, ensure_ascii=False) + "\n"),
    ):
        draft = folder / f".{name}.new"
        draft.write_text(text, encoding="utf-8")
        os.replace(draft, folder / name)


def html(certificate: Certificate) -> str:
    """Return the page: it needs no script, no network and no other file."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("certificate.html.j2").render(
        certificate=as_json(certificate),
        operations=_operations(certificate.runs),
        identities=IDENTITIES,
        ways=ATTACK_VECTORS,
        marks=MARKS,
        redacted=redacted,
    )


def _operations(runs: tuple[Run, ...]) -> list[dict[str, Any]]:
    """Return the operations with their cells by way and identity, those of every run in one."""
    found: dict[str, dict[str, Any]] = {}
    for run in runs:
        for cell in run.cells:
            operation = found.setdefault(cell.operation, {"id": cell.operation, "ways": {}})
            row = operation["ways"].setdefault(cell.way, {})
            seen = row.setdefault(cell.identity, {"state": cell.state, "runs": []})
            seen["runs"].append((run.name, cell))
            if cell.state == "fail":
                seen["state"] = "fail"
    for operation in found.values():
        states = [c["state"] for row in operation["ways"].values() for c in row.values()]
        operation["state"] = "fail" if "fail" in states else "pass"
        operation["count"] = sum(state != "n/a" for state in states)
        first = next(
            (
                e.request
                for row in operation["ways"].values()
                for c in row.values()
                for _, cell in c["runs"]
                for e in cell.evidence
                if not e.probe.startswith("with HEAD")
            ),
            None,
        )
        operation["method"] = first.method if first else ""
    return list(found.values())
