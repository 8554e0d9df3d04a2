"""Schemathesis against the running service, signed in and with ids that exist."""
