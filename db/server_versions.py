"""Which versions of PostgreSQL the service accepts, and which have the security fixes it needs."""

MINIMUM = 150_000
# Below these a client may read rows that a policy hides (CVE-2026-120154).
FLOORS = {15: 150_020, 16: 160_016, 17: 170_012, 18: 180_007}


def floor_warning(version: int) -> str | None:
    """Return why a server of `version` (server_version_num) is below the security floor."""
    floor = FLOORS.get(version // 10_000)
    if floor is None or version >= floor:
        return None
    name = f"PostgreSQL {version // 10_000}.{version % 10_000}"
    return f"{name} is below the security floor {floor // 10_000}.{floor % 10_000}: upgrade it"
