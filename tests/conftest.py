"""Loads the fixtures, which are grouped by topic in tests/platform/fix_*.py."""

pytest_plugins = [
    "tests.platform.fix_postgres",
    "tests.platform.fix_service",
    "tests.platform.fix_resources",
    "tests.platform.fix_tokens",
    "tests.platform.fix_tools",
]
