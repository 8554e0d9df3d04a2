"""What a certificate is about: contract, commit, PostgreSQL version, date and duration."""

import re
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from db import server_versions
from evidence.harness.processes import ROOT
from openapi.contract import Contract

GIT_TIMEOUT_SECONDS = 20


def collect(contract: Contract, postgresql_version: str, started: float) -> Mapping[str, Any]:
    """Return the metadata of a certificate; `started` is a reading of `time.monotonic()`."""
    commit, changes = _git("rev-parse", "HEAD"), _git("status", "--porcelain")
    return {
        "contract": {
            "file": contract.file.name,
            "title": contract.title,
            "version": contract.version,
            "hash": f"sha256:{contract.hash}",
        },
        "commit": commit or "unknown",
        "is_tree_clean": bool(commit) and not changes,
        "postgresql": postgresql_version,
        "postgresql_warning": _floor_warning(postgresql_version),
        "python": sys.version.split()[0],
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "duration_seconds": round(time.monotonic() - started, 1),
    }


def _floor_warning(version: str) -> str:
    """Return why this PostgreSQL is below the security floor, or an empty string."""
    number = re.match(r"(\d+)\.(\d+)", version)
    if number is None:
        return ""
    return server_versions.floor_warning(int(number[1]) * 10_000 + int(number[2])) or ""


def _git(*arguments: str) -> str:
    """Return the output of a Git command, or an empty string if it fails."""
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=GIT_TIMEOUT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
