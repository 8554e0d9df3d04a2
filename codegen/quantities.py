"""Kubernetes quantities: check their syntax and convert them to numbers."""

import re
from decimal import Decimal

# kubernetes.io, Resource Management for Pods and Containers
UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12} | {
    f"{letter}i": 2 ** (10 * (power + 1)) for power, letter in enumerate("KMGT")
}
MAX_CORES = 1024
MIN_BYTES, MAX_BYTES = 4 * 2**20, 2**50
_CPU = re.compile(r"(\d{1,9})m|(\d{1,6}(\.\d{1,3})?)", re.ASCII)
_MEMORY = re.compile(r"(\d{1,15}(\.\d{1,9})?)([kMGT]|[KMGT]i)?", re.ASCII)


def cpu_cores(quantity: str | int | float) -> Decimal:
    """Return the number of cores: 0.25 for `250m`, 0.5 for `0.5`, 2 for 2.

    Raises `ValueError` with the reason.
    """
    match = _CPU.fullmatch(str(quantity))
    if not match:
        raise ValueError(
            f"{quantity!r} is not a CPU quantity. Use 2, 0.5 or 250m; the minimum is 1m"
        )
    cores = Decimal(match[1]) / 1000 if match[1] else Decimal(match[2])
    if not 0 < cores <= MAX_CORES:
        raise ValueError(f"{quantity!r} is not between 1m and {MAX_CORES} cores")
    return cores


def memory_bytes(quantity: str | int) -> int:
    """Return the number of bytes of `256Mi`, `1G` or 1048576.

    Raises `ValueError` with the reason.
    """
    match = _MEMORY.fullmatch(str(quantity))
    if not match:
        raise ValueError(f"{quantity!r} is not a memory quantity. Use 256Mi, 1Gi or 500M")
    size = Decimal(match[1]) * UNITS[match[3] or ""]
    if size != size.to_integral_value():
        raise ValueError(f"{quantity!r} is not a whole number of bytes")
    if not MIN_BYTES <= size <= MAX_BYTES:
        raise ValueError(f"{quantity!r} is not between 4Mi and 1024Ti")
    return int(size)
