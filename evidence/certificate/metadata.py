"""What a certificate is about: contract, commit, PostgreSQL, when and for how long."""

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


def of(contract: Contract, version: str, started: float) -> Mapping[str, Any]:
    """Return what the certificate says of itself; `started` is of the monotonic clock."""
    commit, changed = _git("rev-parse", "HEAD"), _git("status", "--porcelain")
    return {
        "contract": {
            "file": contract.file.name,
            "title": contract.title,
            "version": contract.version,
            "hash": f"sha256:{contract.hash}",
        },
        "commit": commit or "unknown",
        "tree_is_clean": bool(commit) and not changed,
        "postgresql": version,
        "warning": _floor(version),
        "python": sys.version.split()[0],
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - started, 1),
    }


def _floor(version: str) -> str:
    """Return why this PostgreSQL is below the security floor, or nothing."""
    number = re.match(r"(\d+)\.(\d+)", version)
    return (
        server_versions.floor_warning(int(number[1]) * 10_000 + int(number[2])) or ""
        if number
        else ""
    )


def _git(*words: str) -> str:
    try:
        done = subprocess.run(
            ["git", *words],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
