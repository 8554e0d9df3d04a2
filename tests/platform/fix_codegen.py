"""The generator run on a small contract in a folder of its own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from codegen.__main__ import main
from evidence.harness.processes import ROOT

CONTRACTS = Path(__file__).parent / "contracts"
MINIMAL = CONTRACTS / "generate_minimal.yaml"


def minimal_tree(root: Path) -> Path:
    """Write the minimal contract and its generated files into `root` and return it."""
    shutil.copy(MINIMAL, root / "contract.yaml")
    handlers = root / "handlers"
    handlers.mkdir()
    (handlers / "system.py").write_text("def health(): ...\ndef ready(): ...\n")
    assert run(root) == 0
    return root


def arguments(root: Path, *options: str) -> list[str]:
    """Return the command line of the generator for the contract in `root`."""
    file, handlers = str(root / "contract.yaml"), str(root / "handlers")
    return ["--contract", file, "--root", str(root), "--handlers", handlers, *options]


def run(root: Path, *options: str) -> int:
    """Run the generator on the contract in `root`; return its exit code."""
    return main(arguments(root, *options))


def edit(root: Path, old: str, new: str) -> None:
    """Replace text in the contract in `root`."""
    file = root / "contract.yaml"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))


def snapshot(root: Path) -> dict[str, bytes]:
    """Return the content of every file below `root`."""
    return {str(f): f.read_bytes() for f in sorted(root.rglob("*")) if f.is_file()}


def run_without_reader(*command: str) -> "subprocess.CompletedProcess[str]":
    """Run a Python module whose stdout is a pipe that its reader has already closed."""
    read, write = os.pipe()
    os.close(read)
    try:
        return subprocess.run(
            [sys.executable, "-m", *command],
            cwd=ROOT,
            stdout=write,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    finally:
        os.close(write)
