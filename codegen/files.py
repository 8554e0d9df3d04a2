"""Generated files on disk: read them, compare them with new ones, write what changed."""

import difflib
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

Files = dict[str, str]  # text by relative path, with `/` as separator

ROOTS = ("charts", "argo")


def files_below(folder: Path) -> Iterator[Path]:
    """Yield every file below `folder` in sorted order; nothing if the folder does not exist.

    Raises `OSError` for a folder that cannot be read, which `Path.rglob` would skip.
    """

    def reject(error: OSError) -> None:
        raise error

    if folder.exists():
        walk = os.walk(folder, onerror=reject)
        yield from sorted(Path(parent, name) for parent, _, names in walk for name in names)


def read_files(folder: Path) -> Files:
    """Return the text of every file below `folder`."""
    return {f.relative_to(folder).as_posix(): f.read_text("utf-8") for f in files_below(folder)}


def read_existing(root: Path) -> Files:
    """Return every file below charts/ and argo/, with undecodable bytes replaced."""
    files = (file for top in ROOTS for file in files_below(root / top) if file.is_file())
    return {f.relative_to(root).as_posix(): f.read_text("utf-8", "replace") for f in files}


def write(root: Path, files: Files) -> None:
    """Write `files` below `root`.

    Each file is replaced as a whole. When one cannot be written, the remaining ones keep their
    previous content.
    """
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=".generate-") as scratch:
        for i, text in enumerate(files.values()):
            Path(scratch, str(i)).write_text(text, encoding="utf-8")
        for i, path in enumerate(files):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            os.replace(Path(scratch, str(i)), root / path)


def delete(root: Path, paths: Iterable[str]) -> None:
    """Delete files below `root`, and the folders that become empty."""
    for path in paths:
        file = root / path
        file.unlink()
        for folder in file.parents:
            if folder == root or any(folder.iterdir()):
                break
            folder.rmdir()


def difference(old: Files, new: Files) -> list[str]:
    """Return the lines of a unified diff; files in which only the hash changed are counted."""
    lines: list[str] = []
    only_hash = 0
    for path in sorted(old.keys() | new.keys()):
        before, after = old.get(path, ""), new.get(path, "")
        if before == after:
            continue
        if path in old and path in new and _without_hash(before) == _without_hash(after):
            only_hash += 1
            continue
        lines += difflib.unified_diff(
            before.splitlines(keepends=True),
            after.splitlines(keepends=True),
            f"a/{path}" if path in old else "/dev/null",
            f"b/{path}" if path in new else "/dev/null",
            n=2,
        )
    if only_hash:
        lines.append(f"{only_hash} more files: only the contract's hash changed\n")
    return lines


def _without_hash(text: str) -> list[str]:
    return [line for line in text.splitlines() if "sha256:" not in line]
