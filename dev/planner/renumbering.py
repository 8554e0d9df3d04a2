"""`make renumber`: bring the revisions of two merged branches into one line.

The revisions of one branch keep their names; those of the other are renamed to follow them. Files
on BASE stay, because a deployment may have run them; of two branches that are both on BASE, or
neither, the one that was committed first stays.
"""

import re
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from db import revisions
from db.revisions import PLATFORM_LINE, SERVICE_LINE, Revision, RevisionError

NOT_COMMITTED = 2**63


def main(arguments: Sequence[str]) -> int:
    """Rename the files, print their old and new names, and return the exit code."""
    parser = ArgumentParser(prog="python -m dev.planner.renumbering", description=__doc__)
    parser.add_argument("--base", default="main", help="a git revision that is deployed")
    options = parser.parse_args(arguments)
    try:
        renamed = renumber(revisions.MIGRATIONS, options.base)
    except RevisionError as error:
        print(error, file=sys.stderr)
        return 1
    for before, after in renamed:
        print(f"{before.name} -> {after.name}")
    if renamed:
        print(
            "A database that has run a revision under its old name cannot be migrated any more:"
            " create it again."
        )
    else:
        print("Each line of revisions has one head: nothing to do.")
    return 0


def renumber(folder: Path, base: str) -> list[tuple[Path, Path]]:
    """Rename revisions until each line below `folder` has one head; return (old, new) files.

    Raises `RevisionError`.
    """
    renamed: list[tuple[Path, Path]] = []
    for line in (SERVICE_LINE, PLATFORM_LINE):
        while len(chains := _chains(folder, line)) > 1:
            landed = _files_of(base, folder)
            first, second, *_ = sorted(chains, key=lambda chain: _precedence(chain, landed))
            renamed += _append(second, to=first[-1])
    return renamed


def _chains(folder: Path, line: str) -> list[list[Revision]]:
    """Return, for each last revision of the line, those that only it follows, in order."""
    history = revisions.read_branches(folder)
    paths = []
    for tip in history.tips(line):
        path: list[Revision] = []
        revision: Revision | None = tip
        while revision:
            path.insert(0, revision)
            revision = history.by_id.get(revision.parent or "")
        paths.append(path)
    return [[r for r in path if not all(r in other for other in paths)] for path in paths]


def _precedence(chain: list[Revision], landed: set[Path]) -> tuple[bool, int, str]:
    is_landed = any(revision.file in landed for revision in chain)
    return not is_landed, _added_at(chain[0].file), chain[0].file.name


def _append(chain: list[Revision], to: Revision) -> list[tuple[Path, Path]]:
    """Give a chain the numbers after `to`, and let it follow `to`."""
    renamed, parent = [], to
    for revision in chain:
        slug = re.sub(r"^p?\d{4}_", "", revision.file.stem)
        id = f"{to.line}{parent.number + 1:04d}_{slug}"[: revisions.MAX_ID_LENGTH]
        text = revision.file.read_text()
        for name, value in (("revision", id), ("down_revision", parent.id)):
            text = re.sub(rf"(?m)^{name} = .*$", f'{name} = "{value}"', text, count=1)
        file = revision.file.with_name(f"{id}.py")
        revision.file.unlink()
        file.write_text(text)
        renamed.append((revision.file, file))
        parent = Revision(id, parent.id, file)
    return renamed


def _files_of(base: str, folder: Path) -> set[Path]:
    """Return the files below `folder` in a git revision. Raises `RevisionError`."""
    root = Path(_git(folder, "rev-parse", "--show-toplevel").strip())
    listed = _git(root, "ls-tree", "-r", "--name-only", "-z", "--end-of-options", base)
    return {root / name for name in listed.split("\0")}


def _added_at(file: Path) -> int:
    """Return when a file was first committed, in seconds since 1970."""
    times = _git(file.parent, "log", "--format=%ct", "--diff-filter=A", "--", file.name).split()
    return int(times[-1]) if times else NOT_COMMITTED


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        reason = done.stderr.strip()
        raise RevisionError(f"git {arguments[0]}: {reason}. Name the deployed branch: BASE=…")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
