"""Whether a contract may replace that of another git revision, and the report that says why.

It may if every change is safe or acknowledged, or if the major version rises.
"""

import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dev.breaking.change import Change, Concern, Severity
from dev.breaking.diff import acknowledgement, compare
from openapi.documents import NodePath, format_path, mapping_at
from openapi.yaml_loader import line_of, parse

TITLES = {
    Concern.CLIENTS: "For clients",
    Concern.POLICIES: "For policies and tenants",
    Concern.MANIFESTS: "For manifests",
}
WORST_FIRST = (Severity.SECURITY_BREAKING, Severity.BREAKING, Severity.SAFE)


class GateError(Exception):
    """A contract that cannot be read or compared; the message is one line."""


@dataclass(frozen=True)
class Revision:
    """The contract of one revision as written, with the line of each node."""

    name: str
    document: dict[str, Any]
    lines: Mapping[NodePath, int]

    def location(self, path: NodePath) -> str:
        """Return file and line of the node at `path`, or of its nearest ancestor."""
        return f"{self.name}:{line_of(self.lines, path)}"

    @property
    def major_version(self) -> int:
        """The major version; 0 if the contract has none."""
        version = str(mapping_at(self.document, "info").get("version", ""))
        match = re.match(r"\d+", version)
        return int(match[0]) if match else 0


@dataclass(frozen=True)
class Verdict:
    """Every change, with the reason that the new contract gives for it, or None."""

    old: Revision
    new: Revision
    changes: tuple[tuple[Change, str | None], ...]

    @property
    def rejected(self) -> list[Change]:
        """The changes that need an acknowledgement or a higher major version."""
        if self.new.major_version > self.old.major_version:
            return []
        return [
            change
            for change, acknowledged in self.changes
            if change.severity != Severity.SAFE and acknowledged is None
        ]


def parse_revision(source: bytes, name: str) -> Revision:
    """Return a contract as written; it need not follow the current rules of `openapi.rules`.

    Raises `GateError` and `ContractError`.
    """
    document, lines, issues = parse(source, name)
    if issues:
        line, path, reason = issues[0]
        raise GateError(f"{name}:{line}: {format_path(path)}: {reason}")
    return Revision(name, document, lines)


def load_revision(revision: str, file: Path) -> Revision:
    """Return the contract of a git revision. Raises `GateError` and `ContractError`."""
    directory = Path.cwd().resolve()
    if not file.resolve().is_relative_to(directory):
        raise GateError(f"{file}: must be inside the working directory {directory}")
    relative = file.resolve().relative_to(directory).as_posix()
    if revision.startswith("-"):
        raise GateError(f"`{revision}` is not a git revision")
    try:
        git = subprocess.run(
            ["git", "show", f"{revision}:./{relative}"], capture_output=True, check=False
        )
    except OSError as error:
        raise GateError(f"cannot run git: {error.strerror}") from None
    if git.returncode:
        lines = git.stderr.decode(errors="replace").strip().splitlines() or ["git failed"]
        raise GateError(f"cannot read {relative} of revision `{revision}`: {lines[0]}")
    return parse_revision(git.stdout, f"{revision}:{relative}")


def compare_revisions(old: Revision, new: Revision) -> Verdict:
    """Return every change between two revisions. Raises `GateError` for a recursive schema."""
    try:
        changes = compare(old.document, new.document)
    except RecursionError:
        raise GateError(f"{new.name}: cannot compare recursive schemas") from None
    return Verdict(
        old,
        new,
        tuple((change, acknowledgement(change, old.document, new.document)) for change in changes),
    )


def report(verdict: Verdict) -> str:
    """Return what changes for whom, where, and why that matters."""
    return "\n".join(_report_lines(verdict))


def _report_lines(verdict: Verdict) -> Iterator[str]:
    severities = [change.severity for change, _ in verdict.changes]
    counts = ", ".join(f"{severities.count(severity)} {severity}" for severity in Severity)
    yield f"{verdict.new.name} compared with {verdict.old.name}: {counts}"
    for concern, title in TITLES.items():
        changes = [entry for entry in verdict.changes if entry[0].concern == concern]
        if changes:
            yield f"\n{title}"
        for change, acknowledged in sorted(
            changes, key=lambda entry: WORST_FIRST.index(entry[0].severity)
        ):
            revision = verdict.old if change.is_removed else verdict.new
            location = f"{revision.location(change.path)} {format_path(change.path)}"
            yield f"  {change.severity:17} {location}: {change.summary}"
            yield f"  {'':17} {change.reason}"
            if acknowledged is not None and change.severity != Severity.SAFE:
                yield f"  {'':17} acknowledged: {acknowledged}"
    yield ""
    if count := len(verdict.rejected):
        yield (
            f"rejected: {count} change{'s' * (count > 1)} must be acknowledged"
            " (x-acknowledge: {reason: …} at the change),"
            f" or the major version raised above {verdict.old.major_version}"
        )
    else:
        yield "accepted"
