"""Plant one fault at a time and demand that the certificate goes red for that very reason."""

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

from evidence.harness.postgres import any_server
from evidence.harness.processes import ROOT, find_program

TREE = ("openapi", "handlers", "service", "db", "dev", "evidence")
LONGEST = 240.0


@dataclass(frozen=True)
class Mutant:
    """A fault: SQL after the migrations, or edits of a copy of the tree (file, old, new).

    `reason` is a regular expression that a fault of the certificate must match; `parts` are those
    that are run, the layer that must find it among them.
    """

    name: str
    reason: str
    sql: str = ""
    undo: str = ""
    edits: tuple[tuple[str, str, str], ...] = ()
    parts: str = "matrix"


@dataclass(frozen=True)
class Fate:
    """What became of a mutant: killed, or why not."""

    mutant: Mutant
    killed: bool
    told: str
    seconds: float


def main(only: str = "") -> int:
    """Run the mutants whose name holds `only`, and first the tree as it is, which must pass."""
    chosen = [mutant for mutant in plants() if only in mutant.name]
    if not chosen:
        raise SystemExit(f"no mutant's name holds {only!r}")
    with tempfile.TemporaryDirectory(prefix="certify-mutants-") as name:
        folder = Path(name)
        with any_server(folder) as url:
            whole = fate(Mutant("none", ""), folder, url)
            print(
                f"the tree as it is: {'red' if whole.killed else 'green'}  {whole.told}", flush=True
            )
            fates = []
            for n, mutant in enumerate(chosen):
                if mutant.parts == "pooler" and find_program("pgbouncer") is None:
                    print(f"not run: {mutant.name}: pgbouncer is not installed")
                    continue
                made = fate(mutant, folder, url)
                fates.append(made)
                mark = "killed  " if made.killed else "SURVIVED"
                print(
                    f"{n + 1:3} {mark} {made.seconds:5.1f} s  {mutant.name}: {made.told}",
                    flush=True,
                )
    killed = sum(made.killed for made in fates)
    print(f"mutants killed: {killed}/{len(fates)}")
    return 0 if killed == len(fates) == len(chosen) and not whole.killed else 1


def plants() -> list[Mutant]:
    """Return the faults that are planted, those of plants/*.yaml."""
    found = []
    for file in sorted((Path(__file__).parent / "mutations").glob("*.yaml")):
        for entry in yaml.safe_load(file.read_text(encoding="utf-8")):
            edits = tuple((e["file"], e["old"], e["new"]) for e in entry.pop("edits", ()))
            found.append(Mutant(**entry, edits=edits))
    return found


def planted(text: str, file: str, mutant: Mutant) -> str:
    """Return the text of a file with a mutant's edits. Raises `LookupError`."""
    for _, old, new in (edit for edit in mutant.edits if edit[0] == file):
        if old not in text:
            raise LookupError(f"{file} has no {old!r}")
        text = text.replace(old, new)
    return text


def fate(mutant: Mutant, folder: Path, server_url: str) -> Fate:
    """Run the certificate on a copy of the tree with one fault in it."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=folder) as name:
        tree = Path(name)
        for package in TREE:
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / package, tree / package, ignore=ignored)
        for file in dict.fromkeys(file for file, _, _ in mutant.edits):
            try:
                text = planted((tree / file).read_text(encoding="utf-8"), file, mutant)
            except LookupError as error:
                return Fate(mutant, False, f"could not be planted: {error}", 0)
            (tree / file).write_text(text, encoding="utf-8")
        faults, told = _certify(mutant, tree, server_url)
    if not mutant.reason:
        return Fate(mutant, told != "pass", "; ".join(faults) or told, time.monotonic() - started)
    hits = [fault for fault in faults if re.search(mutant.reason, fault)]
    reason = hits[0] if hits else f"{told}, and nothing like {mutant.reason!r}: {faults[:3]}"
    return Fate(mutant, bool(hits), reason[:400], time.monotonic() - started)


def _certify(mutant: Mutant, tree: Path, server_url: str) -> tuple[list[str], str]:
    """Return the faults of the certificate, and its verdict or why there is none."""
    parts = mutant.parts if mutant.reason else "matrix,layers"
    options = ["--parts", parts, "--out", str(tree / "build"), "--quiet"]
    options += ["--sql", mutant.sql, "--undo", mutant.undo]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "evidence.certificate", *options],
            cwd=tree,
            env={**os.environ, "TEST_DATABASE_URL": server_url, "PYTHONPATH": str(tree)},
            capture_output=True,
            text=True,
            timeout=LONGEST,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return [], f"no certificate within {LONGEST:.0f} s"
    file = tree / "build" / "certificate.json"
    if not file.exists():
        return [], f"no certificate: {(done.stderr.strip().splitlines() or ['?'])[-1]}"
    certificate = json.loads(file.read_text(encoding="utf-8"))
    verdict = str(certificate["verdict"])
    return list(certificate["faults"]), "pass" if verdict == "incomplete" else verdict
