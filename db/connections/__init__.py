"""Connections to PostgreSQL: pipelines, the pool, and the monitor of the database."""
