"""`make test-platform`: the platform's tests, on the sample contract instead of the user's.

They run in place while contract, handlers and migrations are those of the sample. Otherwise they
run in a copy of the tree, build/platform, that has the sample's.
"""

import filecmp
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
COPY = ROOT / "build" / "platform"
SAMPLE = Path("tests/platform/sample")
# What belongs to the user, and what the sample has instead.
USER_FOLDERS = {
    Path("handlers"): SAMPLE / "handlers",
    Path("db/migrations/versions"): SAMPLE / "versions",
}
CONTRACT = Path("openapi/openapi.yaml")
GENERATED = ("charts", "argo")
AUTHOR = ("-c", "user.name=platform", "-c", "user.email=platform@localhost")


def main(arguments: list[str]) -> int:
    """Return pytest's exit code; `arguments` are pytest's."""
    tree = ROOT if is_sample(ROOT) else copy_with_sample()
    if tree != ROOT:
        print(f"The contract is not the sample: the tests run in {tree}", flush=True)
    command = [sys.executable, "-m", "pytest", "tests/platform", *arguments]
    return subprocess.run(command, cwd=tree, check=False).returncode


def is_sample(tree: Path) -> bool:
    """Return whether contract, handlers and migrations of a tree are those of the sample."""
    return filecmp.cmp(tree / CONTRACT, tree / SAMPLE / CONTRACT.name, shallow=False) and all(
        _contents(tree / folder) == _contents(tree / sample)
        for folder, sample in USER_FOLDERS.items()
    )


def copy_with_sample() -> Path:
    """Return a copy of the tree with the sample, as a git repository of its own."""
    shutil.rmtree(COPY, ignore_errors=True)
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.rstrip("\0")
    generated_or_user = (*map(str, USER_FOLDERS), *GENERATED, "overrides")
    for name in listed.split("\0"):
        source = ROOT / name
        if source.is_file() and not name.startswith(tuple(f"{n}/" for n in generated_or_user)):
            target = COPY / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    shutil.copy2(COPY / SAMPLE / CONTRACT.name, COPY / CONTRACT)
    for folder, sample in USER_FOLDERS.items():
        shutil.copytree(COPY / sample, COPY / folder, dirs_exist_ok=True)
    (COPY / ".venv").symlink_to(ROOT / ".venv")
    subprocess.run([sys.executable, "-m", "codegen"], cwd=COPY, check=True, capture_output=True)
    for command in (("init", "-q"), ("add", "."), ("commit", "-q", "-m", "sample")):
        subprocess.run(["git", *AUTHOR, *command], cwd=COPY, check=True)
    return COPY


def _contents(folder: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in folder.glob("*.py")}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
