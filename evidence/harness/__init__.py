"""Starts what evidence is gathered on: processes, PostgreSQL, PgBouncer and the service."""
