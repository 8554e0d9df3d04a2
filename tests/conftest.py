"""Fixtures by topic: fix_postgres, fix_service."""

pytest_plugins = ["tests.fix_postgres", "tests.fix_service"]
