"""Memory, CPU time and file descriptors of a process (proc(5))."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SAMPLE_INTERVAL_SECONDS = 0.01


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process in bytes, 0 when it has ended."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    return 0


def open_descriptors(pid: int) -> int:
    """Return the number of open file descriptors. Raises `OSError` when the process has ended."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def cpu_seconds(pid: int) -> float:
    """Return the user and system CPU time of a process. Raises `OSError` when it has ended."""
    # The second field, the command in parentheses, may contain spaces.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class PeakMemory:
    """Samples the resident memory of a process on a thread, 100 times a second."""

    def __init__(self, pid: int) -> None:
        self._pid, self._peak, self._stopping = pid, 0, threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def bytes(self) -> int:
        """Return the highest value since the start."""
        return max(self._peak, resident_bytes(self._pid))

    def stop(self) -> None:
        """Stop sampling."""
        self._stopping.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._stopping.wait(SAMPLE_INTERVAL_SECONDS):
            self._peak = max(self._peak, resident_bytes(self._pid))


@contextmanager
def peak_memory(pid: int) -> Iterator[PeakMemory]:
    """Sample the memory of a process until the end of the block."""
    peak = PeakMemory(pid)
    try:
        yield peak
    finally:
        peak.stop()
