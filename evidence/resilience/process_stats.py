"""What a process holds: memory and file descriptors (proc(5))."""

import os
from contextlib import suppress
from pathlib import Path


def resident_bytes(pid: int) -> int:
    """Return what a process holds in memory, 0 when it has ended."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    return 0


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))
