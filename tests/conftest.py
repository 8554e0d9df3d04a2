"""Fixtures by topic: fix_postgres, fix_service, fix_resources, fix_tools."""

pytest_plugins = [
    "tests.fix_postgres",
    "tests.fix_service",
    "tests.fix_resources",
    "tests.fix_tools",
]
