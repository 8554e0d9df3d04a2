"""Starts processes, PostgreSQL, PgBouncer and the service for tests and evidence."""
