"""The PostgreSQL versions that the service accepts, and their security floors.

A security floor is the oldest release of a major version with the security fixes that it needs.

Versions are those of server_version_num: 10,000 per major version plus the minor version.
"""

MINIMUM = 150_000
# In releases below these, a client may read rows that a policy hides (CVE-2026-120154).
SECURITY_FLOORS = {15: 150_020, 16: 160_016, 17: 170_012, 18: 180_007}


def unsupported_reason(version: int) -> str | None:
    """Return why a server of `version` is not supported, or None."""
    if version >= MINIMUM:
        return None
    return f"PostgreSQL {version // 10_000} is too old: 15 or newer is needed"


def floor_warning(version: int) -> str | None:
    """Return a warning that a server of `version` is below its security floor, or None."""
    floor = SECURITY_FLOORS.get(version // 10_000)
    if floor is None or version >= floor:
        return None
    running, fixed = (f"{v // 10_000}.{v % 10_000}" for v in (version, floor))
    return f"PostgreSQL {running} is below the security floor {fixed}: upgrade it"
