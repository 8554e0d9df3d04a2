"""Kubernetes quantities: what its API server takes, and how much that is."""

import re
from decimal import Decimal

# kubernetes.io, Resource Management for Pods and Containers
UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12} | {
    f"{letter}i": 2 ** (10 * (power + 1)) for power, letter in enumerate("KMGT")
}
_CPU = re.compile(r"(\d{1,9})m|(\d{1,6}(\.\d{1,3})?)", re.ASCII)
_MEMORY = re.compile(r"(\d{1,15}(\.\d{1,9})?)([kMGT]|[KMGT]i)?", re.ASCII)
MAX_CORES = 1024
LEAST_BYTES, MOST_BYTES = 4 * 2**20, 2**50


def cpu_cores(quantity: str | int | float) -> Decimal:
    """Return the processors of `250m`, `0.5` or 2. Raises `ValueError` with the reason."""
    found = _CPU.fullmatch(str(quantity))
    if not found:
        raise ValueError(f"{quantity!r} is no quantity of CPU: 2, 0.5 or 250m; 1m is the least")
    cores = Decimal(found[1]) / 1000 if found[1] else Decimal(found[2])
    if not 0 < cores <= MAX_CORES:
        raise ValueError(f"{quantity!r} is not between 1m and {MAX_CORES} processors")
    return cores


def memory_bytes(quantity: str | int) -> int:
    """Return the bytes of `256Mi`, `1G` or 1048576. Raises `ValueError` with the reason."""
    found = _MEMORY.fullmatch(str(quantity))
    if not found:
        raise ValueError(f"{quantity!r} is no quantity of bytes: 256Mi, 1Gi, 500M")
    amount = Decimal(found[1]) * UNITS[found[3] or ""]
    if amount != amount.to_integral_value():
        raise ValueError(f"{quantity!r} is no whole number of bytes")
    if not LEAST_BYTES <= amount <= MOST_BYTES:
        raise ValueError(f"{quantity!r} is not between 4Mi and 1024Ti")
    return int(amount)
