"""`make run` and `make dev`: the service with a PostgreSQL of its own."""
