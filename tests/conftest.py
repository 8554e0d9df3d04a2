"""Loads the fixtures, which are grouped by topic in tests/platform/fix_*.py."""

# A module comes before those that import it, so that pytest can rewrite its assertions.
pytest_plugins = [
    "tests.platform.fix_tools",
    "tests.platform.fix_postgres",
    "tests.platform.fix_service",
    "tests.platform.fix_resources",
    "tests.platform.fix_tokens",
    "tests.platform.fix_multiplexer",
]
