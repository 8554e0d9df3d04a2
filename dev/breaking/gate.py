"""`python -m dev.breaking --base REV`: may this contract follow the one of another revision?

Exit 0: no change that is breaking or security-breaking, or each is acknowledged, or the major
version rises. Exit 1: one is neither. Exit 2: a contract cannot be read.
"""

import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dev.breaking.change import SAFE, Change
from dev.breaking.diff import Pair, acknowledged, compare
from openapi.documents import NodePath, format_path, mapping_at
from openapi.yaml_loader import line_of, parse

CONCERNS = {
    "clients": "For clients",
    "policies": "For policies and tenants",
    "manifests": "For manifests",
}


class GateError(Exception):
    """A contract that cannot be read: one line."""


@dataclass(frozen=True)
class Revision:
    """One contract as it is written, with the line of each place."""

    name: str
    document: dict[str, Any]
    lines: Mapping[NodePath, int]

    def where(self, place: NodePath) -> str:
        """Return file and line of a place, or of the nearest that holds it."""
        return f"{self.name}:{line_of(self.lines, place)}"

    @property
    def major(self) -> int:
        found = re.match(r"\d+", str(mapping_at(self.document, "info").get("version", "")))
        return int(found[0]) if found else 0


@dataclass(frozen=True)
class Verdict:
    """Every change with why it is meant, where that is said."""

    old: Revision
    new: Revision
    changes: tuple[tuple[Change, str | None], ...]

    @property
    def refused(self) -> list[Change]:
        if self.new.major > self.old.major:
            return []
        return [c for c, reason in self.changes if c.kind != SAFE and reason is None]


def read(source: bytes, name: str) -> Revision:
    """Return a contract as it is written: an old one need not keep the rules of today."""
    document, lines, flaws = parse(source, name)
    if flaws:
        raise GateError(f"{name}:{flaws[0][0]}: {flaws[0][2]}")
    return Revision(name, document, lines)


def compare_revisions(old: Revision, new: Revision) -> Verdict:
    pair = Pair(old.document, new.document)
    changes = compare(old.document, new.document)
    return Verdict(old, new, tuple((c, acknowledged(c, pair)) for c in changes))


def report(judgement: Verdict) -> str:
    """Return the report for people: what changes for whom, where, and why that matters."""
    return "\n".join(_lines(judgement))


def _lines(judgement: Verdict) -> Iterator[str]:
    kinds = [change.kind for change, _ in judgement.changes]
    counts = ", ".join(f"{kinds.count(k)} {k}" for k in (SAFE, "breaking", "security-breaking"))
    yield f"{judgement.new.name} against {judgement.old.name}: {counts}"
    for concerns, title in CONCERNS.items():
        chosen = [(c, r) for c, r in judgement.changes if c.concerns == concerns]
        if chosen:
            yield f"\n{title}"
        for change, reason in sorted(chosen, key=lambda pair: _gravity(pair[0].kind)):
            side = judgement.old if change.gone else judgement.new
            where = f"{side.where(change.place)} {format_path(change.place)}"
            yield f"  {change.kind:17} {where}: {change.what}"
            yield f"  {'':17} {change.reason}"
            if reason is not None and change.kind != SAFE:
                yield f"  {'':17} acknowledged: {reason}"
    yield ""
    refused = judgement.refused
    if refused:
        need = "changes need" if len(refused) != 1 else "change needs"
        yield (
            f"refused: {len(refused)} {need} an x-acknowledge with its reason where the change is,"
            f" or a major version above {judgement.old.major}"
        )
    else:
        yield "accepted"


def _gravity(kind: str) -> int:
    return ("security-breaking", "breaking", SAFE).index(kind)


def read_revision(revision: str, file: Path) -> Revision:
    """Return the contract of a git revision. Raises `GateError`."""
    if revision.startswith("-"):
        raise GateError(f"{revision!r} is no revision")
    inside = file.resolve().relative_to(Path.cwd().resolve()).as_posix()
    done = subprocess.run(
        ["git", "show", f"{revision}:./{inside}"],
        capture_output=True,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["git failed"]
        raise GateError(f"{revision}: {lines[0]}")
    return read(done.stdout, f"{revision}:{inside}")
