"""Write the certificate: JSON for programs, one HTML page for reviewers."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import jinja2

from evidence.certificate.attack_vectors import ATTACK_VECTORS, AttackVector
from evidence.certificate.matrix import IDENTITIES, Identity
from evidence.certificate.results import Case, Certificate, State, as_json, redacted

JSON_NAME, HTML_NAME = "certificate.json", "certificate.html"
FILE_NAMES = (JSON_NAME, HTML_NAME)
MARKS = {State.PASS: "✓", State.FAIL: "✗", State.NOT_APPLICABLE: "·"}
# What stands in a square of the matrix.
INITIALS = {
    Identity.OWN: "O",
    Identity.OTHER: "R",
    Identity.UNBOUND: "U",
    Identity.NONE: "N",
    Identity.EXPIRED: "E",
    Identity.FORGED: "F",
}


@dataclass
class CaseView:
    """One case in all runs, as (name of the run, case)."""

    anchor: str
    runs: list[tuple[str, Case]] = field(default_factory=list)

    @property
    def state(self) -> State:
        states = [case.state for _, case in self.runs]
        return State.FAIL if State.FAIL in states else states[0]

    @property
    def not_applicable(self) -> str:
        return self.runs[0][1].not_applicable


@dataclass
class OperationView:
    """The cases of one operation by attack vector and identity."""

    id: str
    vectors: dict[str, dict[str, CaseView]] = field(default_factory=dict)

    @property
    def cases(self) -> list[CaseView]:
        return [case for row in self.vectors.values() for case in row.values()]

    @property
    def state(self) -> State:
        is_failed = any(case.state is State.FAIL for case in self.cases)
        return State.FAIL if is_failed else State.PASS

    @property
    def count(self) -> int:
        """The number of cases that apply, over all runs."""
        states = [case.state for view in self.cases for _, case in view.runs]
        return len(states) - states.count(State.NOT_APPLICABLE)

    @property
    def method(self) -> str:
        evidence = [e for view in self.cases for _, case in view.runs for e in case.evidence]
        methods = (e.request.method for e in evidence if e.request.method != "HEAD")
        return next(methods, "")


@dataclass
class IssueGroup:
    """The issues of one operation or layer, as (text, anchor of the case or empty)."""

    title: str
    issues: list[tuple[str, str]] = field(default_factory=list)


def remove(folder: Path) -> None:
    """Remove the certificate of an earlier run, so that a crash leaves none behind."""
    for name in FILE_NAMES:
        (folder / name).unlink(missing_ok=True)


def write(certificate: Certificate, folder: Path) -> None:
    """Write both files atomically; the JSON last, since it is the authoritative one."""
    folder.mkdir(parents=True, exist_ok=True)
    content = json.dumps(as_json(certificate), indent=1, ensure_ascii=False) + "\n"
    for name, text in ((HTML_NAME, html(certificate)), (JSON_NAME, content)):
        draft = folder / f".{name}.new"
        draft.write_text(text, encoding="utf-8")
        os.replace(draft, folder / name)


def html(certificate: Certificate) -> str:
    """Return the page, which needs no script, no network and no other file."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("certificate.html.j2").render(
        certificate=certificate,
        issue_groups=list(issue_groups(certificate)),
        operations=_operations(certificate),
        identities=IDENTITIES,
        attack_vectors=ATTACK_VECTORS,
        initials=INITIALS,
        marks=MARKS,
        redacted=redacted,
    )


def _operations(certificate: Certificate) -> list[OperationView]:
    operations: dict[str, OperationView] = {}
    for run in certificate.runs:
        for case in run.cases:
            operation = operations.setdefault(case.operation, OperationView(case.operation))
            row = operation.vectors.setdefault(case.attack_vector, {})
            view = row.setdefault(case.identity, CaseView(_anchor(case)))
            view.runs.append((run.name, case))
    return list(operations.values())


def issue_groups(certificate: Certificate) -> Iterator[IssueGroup]:
    """Yield the issues that belong to no run, then those of each operation and layer."""
    if certificate.issues:
        yield IssueGroup("Setup and coverage", [(issue, "") for issue in certificate.issues])
    groups: dict[str, IssueGroup] = {}
    for run in certificate.runs:
        suffix = "" if run.name == "direct" else f" ({run.name})"
        for case in run.cases:
            group = groups.setdefault(case.operation, IssueGroup(case.operation))
            for evidence in case.evidence:
                source = f"{case.identity} / {case.attack_vector} / {evidence.probe}{suffix}"
                group.issues += [(f"{source}: {i}", _anchor(case)) for i in evidence.issues]
        for check in run.checks:
            group = groups.setdefault(check.layer, IssueGroup(f"Layer: {check.layer}"))
            group.issues += [(f"{issue}{suffix}", "") for issue in check.issues]
    yield from (group for group in groups.values() if group.issues)


def _anchor(case: Case) -> str:
    vector = AttackVector(case.attack_vector).replace(" ", "-")
    return f"{case.operation}/{vector}/{case.identity}"
