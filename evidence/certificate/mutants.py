"""Inject one fault at a time; the certificate must fail for the stated reason."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import yaml

from evidence.certificate.report import JSON_NAME
from evidence.harness.postgres import any_server
from evidence.harness.processes import ROOT, find_program

PACKAGES = ("openapi", "handlers", "service", "db", "dev", "evidence")
TIMEOUT_SECONDS = 240.0
MAX_DETAIL_CHARACTERS = 400


@dataclass(frozen=True)
class Edit:
    """Replaces every `old` in a file of the tree by `new`."""

    file: str
    old: str
    new: str


@dataclass(frozen=True)
class Mutant:
    """A fault: SQL after the migrations, or edits of a copy of the tree.

    `reason` is a regular expression that an issue of the certificate must match. `parts` are the
    parts of the certificate to run, comma-separated; one of them must find the fault.
    """

    name: str
    reason: str
    sql: str = ""
    undo: str = ""
    edits: tuple[Edit, ...] = ()
    parts: str = "matrix"


UNMODIFIED = Mutant("the unmodified tree", "", parts="matrix,layers")


class MutationError(Exception):
    """An edit does not apply, since its file no longer contains the text to replace."""


@dataclass(frozen=True)
class Outcome:
    """Whether a mutant was killed, and the issue that killed it or why it survived."""

    mutant: Mutant
    is_killed: bool
    detail: str
    seconds: float


@dataclass(frozen=True)
class CertificateResult:
    """The verdict and issues of a certificate, or the reason why there is none as `failure`."""

    verdict: str = ""
    issues: tuple[str, ...] = ()
    failure: str = ""


def main(name_part: str = "") -> int:
    """Run the mutants whose name contains `name_part`; return 0 if all are killed.

    The unmodified tree runs first and must have no issues.
    """
    mutants = [mutant for mutant in load_mutants() if name_part in mutant.name]
    if not mutants:
        raise SystemExit(f"no mutant's name contains {name_part!r}")
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="certify-mutants-") as name:
        folder = Path(name)
        with any_server(folder) as url:
            baseline = run_mutant(UNMODIFIED, folder, url)
            verdict = "fail" if baseline.is_killed else "pass"
            print(f"{UNMODIFIED.name}: {verdict}  {baseline.detail}", flush=True)
            for number, mutant in enumerate(mutants, 1):
                if mutant.parts == "pooler" and find_program("pgbouncer") is None:
                    print(f"not run: {mutant.name}: pgbouncer is not installed")
                    continue
                outcome = run_mutant(mutant, folder, url)
                outcomes.append(outcome)
                result = "killed  " if outcome.is_killed else "SURVIVED"
                print(
                    f"{number:3} {result} {outcome.seconds:5.1f} s  {mutant.name}:"
                    f" {outcome.detail}",
                    flush=True,
                )
    killed = sum(outcome.is_killed for outcome in outcomes)
    print(f"mutants killed: {killed}/{len(outcomes)}")
    return 0 if killed == len(mutants) and not baseline.is_killed else 1


def load_mutants() -> list[Mutant]:
    """Return the mutants of mutations/*.yaml."""
    mutants = []
    for file in sorted((Path(__file__).parent / "mutations").glob("*.yaml")):
        for entry in yaml.safe_load(file.read_text(encoding="utf-8")):
            edits = tuple(Edit(**edit) for edit in entry.pop("edits", ()))
            mutants.append(Mutant(**entry, edits=edits))
    return mutants


def mutate(text: str, file: str, mutant: Mutant) -> str:
    """Return the text of a file with a mutant's edits. Raises `MutationError`."""
    for edit in mutant.edits:
        if edit.file == file:
            if edit.old not in text:
                raise MutationError(f"{file} does not contain {edit.old!r}")
            text = text.replace(edit.old, edit.new)
    return text


def run_mutant(mutant: Mutant, folder: Path, server_url: str) -> Outcome:
    """Run the certificate on a copy of the tree with one fault in it."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=folder) as name:
        tree = Path(name)
        for package in PACKAGES:
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / package, tree / package, ignore=ignored)
        for file in dict.fromkeys(edit.file for edit in mutant.edits):
            try:
                text = mutate((tree / file).read_text(encoding="utf-8"), file, mutant)
            except MutationError as error:
                return Outcome(
                    mutant, is_killed=False, detail=f"cannot be applied: {error}", seconds=0
                )
            (tree / file).write_text(text, encoding="utf-8")
        result = _certify(mutant, tree, server_url)
    seconds = time.monotonic() - started
    is_killed, detail = _judge(mutant, result)
    return Outcome(
        mutant, is_killed=is_killed, detail=detail[:MAX_DETAIL_CHARACTERS], seconds=seconds
    )


def _judge(mutant: Mutant, result: CertificateResult) -> tuple[bool, str]:
    """Return whether an issue matches the mutant's reason, and the detail of the outcome."""
    outcome = result.failure or f"verdict {result.verdict}"
    if mutant is UNMODIFIED:
        is_sound = not result.failure and not result.issues
        return not is_sound, "; ".join(result.issues) or outcome
    for issue in result.issues:
        if re.search(mutant.reason, issue):
            return True, issue
    return False, f"{outcome}, no issue matches {mutant.reason!r}: {list(result.issues[:3])}"


def _certify(mutant: Mutant, tree: Path, server_url: str) -> CertificateResult:
    command = [sys.executable, "-m", "evidence.certificate", "--quiet"]
    command += ["--parts", mutant.parts, "--out", str(tree / "build")]
    command += ["--sql", mutant.sql, "--undo", mutant.undo]
    try:
        done = subprocess.run(
            command,
            cwd=tree,
            env={**os.environ, "TEST_DATABASE_URL": server_url, "PYTHONPATH": str(tree)},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return CertificateResult(failure=f"no certificate within {TIMEOUT_SECONDS:.0f} s")
    file = tree / "build" / JSON_NAME
    if not file.exists():
        last_line = (done.stderr.strip().splitlines() or ["no output"])[-1]
        return CertificateResult(failure=f"no certificate: {last_line}")
    content = json.loads(file.read_text(encoding="utf-8"))
    return CertificateResult(content["verdict"], tuple(content["issues"]))
