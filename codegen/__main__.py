"""`python -m codegen`: write charts/ and argo/ from the contract, or say what would change."""

import argparse
import difflib
import os
import sys
import tempfile
from pathlib import Path

import yaml

from codegen import facts, validation, values
from codegen.render import MARK, Files, Overrides, render
from openapi import contract

HERE = Path(__file__).resolve().parent
TEMPLATES = HERE / "templates"
ROOTS = ("charts", "argo")


def main(arguments: list[str] | None = None) -> int:
    """Return 0; 1 if a file is stale or an orphan; 2 if the contract is refused."""
    parser = argparse.ArgumentParser(prog="python -m codegen", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; name what is stale")
    parser.add_argument("--diff", action="store_true", help="write nothing; show what would change")
    parser.add_argument("--contract", type=Path, default=contract.DEFAULT)
    parser.add_argument("--into", type=Path, default=HERE.parent, help="holds charts/ and argo/")
    parser.add_argument("--handlers", type=Path, default=contract.DEFAULT_HANDLERS)
    options = parser.parse_args(arguments)
    try:
        files = generate(
            options.contract, options.handlers, read_overrides(options.into / "overrides")
        )
    except contract.ContractError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    there = existing(options.into)
    changed = sorted(path for path, text in files.items() if there.get(path) != text)
    orphans = sorted(there.keys() - files.keys())
    if options.diff:
        sys.stdout.writelines(difference(there, files))
        return 0
    if options.check:
        for path in changed:
            what = "stale" if path in there else "missing"
            sys.stdout.write(f"{path}: {what}: run `make generate`\n")
        for path in orphans:
            sys.stdout.write(f"{path}: orphan: nothing in the contract makes it\n")
        return 1 if changed or orphans else 0
    write(options.into, {path: files[path] for path in changed})
    foreign = [path for path in orphans if MARK not in there[path].partition("\n")[0]]
    for path in orphans:
        if path not in foreign:
            (options.into / path).unlink()
    for path in foreign:
        sys.stderr.write(f"{path}: orphan, and not ours to delete\n")
    deleted = len(orphans) - len(foreign)
    sys.stdout.write(f"{len(files)} files, {len(changed)} written, {deleted} deleted\n")
    return 1 if foreign else 0


def generate(file: Path, handlers: Path | None, own: Overrides) -> Files:
    """Return what the contract in `file` makes. Raises `ContractError`."""
    loaded = contract.load(file, handlers)
    validation.check(loaded)
    known = facts.from_contract(loaded)
    files = render(known, _texts(TEMPLATES), own)
    values.check(loaded, known, files, own)
    return files


def read_overrides(folder: Path) -> Overrides:
    """Return what a user keeps in overrides/. Raises `ContractError` for what is no YAML."""
    found: dict[str | None, dict[str, object]] = {}
    for file in sorted(folder.glob("values*.yaml")):
        name = file.name.removeprefix("values").removesuffix(".yaml").removeprefix(".") or None
        try:
            loaded = yaml.safe_load(file.read_text()) or {}
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            fault = contract.Issue(f"overrides/{file.name}", 1, "document", f"no YAML: {error}")
            raise contract.ContractError([fault]) from error
        if not isinstance(loaded, dict):
            fault = contract.Issue(f"overrides/{file.name}", 1, "document", "must be a mapping")
            raise contract.ContractError([fault])
        found[name] = loaded
    return Overrides(values=found, templates=_texts(folder / "templates"))


def existing(root: Path) -> Files:
    """Return every file below charts/ and argo/ by its path, undecodable bytes replaced."""
    files = (file for top in ROOTS for file in sorted((root / top).rglob("*")) if file.is_file())
    return {file.relative_to(root).as_posix(): file.read_text(errors="replace") for file in files}


def difference(old: Files, new: Files) -> list[str]:
    """Return a unified diff, file by file; files in which only the hash changed share one line."""
    lines: list[str] = []
    same = 0
    for path in sorted(old.keys() | new.keys()):
        before, after = old.get(path, ""), new.get(path, "")
        if before == after:
            continue
        if path in old and path in new and _without_hash(before) == _without_hash(after):
            same += 1
            continue
        names = (f"a/{path}" if path in old else "/dev/null", f"b/{path}")
        lines += difflib.unified_diff(
            before.splitlines(keepends=True),
            after.splitlines(keepends=True),
            names[0],
            names[1] if path in new else "/dev/null",
            n=2,
        )
    if same:
        lines.append(f"{same} more files: only the contract's hash\n")
    return lines


def write(root: Path, files: Files) -> None:
    """Write all files or, when one cannot be written, leave those not yet replaced as they were."""
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=".generate-") as scratch:
        for i, text in enumerate(files.values()):
            (Path(scratch) / str(i)).write_text(text, encoding="utf-8")
        for i, path in enumerate(files):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            os.replace(Path(scratch) / str(i), root / path)


def _without_hash(text: str) -> list[str]:
    return [line for line in text.splitlines() if "sha256:" not in line]


def _texts(folder: Path) -> Files:
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return {file.relative_to(folder).as_posix(): file.read_text("utf-8") for file in files}


if __name__ == "__main__":
    sys.exit(main())
