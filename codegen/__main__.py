"""`python -m codegen`: write charts/ and argo/ from the contract, or show what would change."""

import argparse
import sys
from functools import partial
from pathlib import Path

from codegen import facts, overrides, validation, values
from codegen.console import run, write_stdout
from codegen.files import Files, delete, difference, read_existing, read_files, write
from codegen.overrides import Overrides
from codegen.render import is_generated, render
from openapi import contract

HERE = Path(__file__).resolve().parent
TEMPLATES = HERE / "templates"


def main(arguments: list[str] | None = None) -> int:
    """Return 0; 1 if a file is stale or an orphan remains; 2 if the input is invalid."""
    parser = argparse.ArgumentParser(prog="python -m codegen", description=__doc__)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--check", action="store_true", help="list stale files and write nothing")
    mode.add_argument("--diff", action="store_true", help="show a diff and write nothing")
    parser.add_argument("--contract", type=Path, default=contract.DEFAULT)
    parser.add_argument("--handlers", type=Path, default=contract.DEFAULT_HANDLERS)
    parser.add_argument(
        "--root", type=Path, default=HERE.parent, help="folder of charts/, argo/ and overrides/"
    )
    return run(partial(_main, parser.parse_args(arguments)))


def generate(file: Path, handlers: Path | None, user_files: Overrides) -> Files:
    """Return the files generated from the contract in `file`, by path.

    Raises `ContractError` if the contract or the overrides are invalid.
    """
    loaded = contract.load(file, handlers)
    validation.check(loaded)
    app = facts.from_contract(loaded)
    files = render(app, read_files(TEMPLATES), user_files)
    values.check(loaded, app, files, user_files)
    return files


def _main(options: argparse.Namespace) -> int:
    root = options.root
    user_files = overrides.read(root / overrides.FOLDER)
    files = generate(options.contract, options.handlers, user_files)
    existing = read_existing(root)
    if options.diff:
        write_stdout("".join(difference(existing, files)))
        return 0
    changed = sorted(path for path, text in files.items() if existing.get(path) != text)
    orphans = sorted(existing.keys() - files.keys())
    if options.check:
        report = [_stale(path, existing) for path in changed]
        report += [_orphan(path, existing) for path in orphans]
        write_stdout("".join(report))
        return 1 if report else 0
    generated = [path for path in orphans if is_generated(existing[path])]
    write(root, {path: files[path] for path in changed})
    delete(root, generated)
    foreign = [_orphan(path, existing) for path in orphans if path not in generated]
    sys.stderr.write("".join(foreign))
    write_stdout(f"{len(files)} files, {len(changed)} written, {len(generated)} deleted\n")
    return 1 if foreign else 0


def _stale(path: str, existing: Files) -> str:
    return f"{path}: {'stale' if path in existing else 'missing'}. Run `make generate`\n"


def _orphan(path: str, existing: Files) -> str:
    if is_generated(existing[path]):
        return f"{path}: orphan, no longer generated. Run `make generate`\n"
    return f"{path}: orphan, not generated. Delete it, or move it to overrides/templates\n"


if __name__ == "__main__":
    sys.exit(main())
