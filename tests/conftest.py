"""Fixtures by topic: fix_postgres, fix_service, fix_resources, fix_tools."""

pytest_plugins = [
    "tests.platform.fix_postgres",
    "tests.platform.fix_service",
    "tests.platform.fix_resources",
    "tests.platform.fix_tools",
]
