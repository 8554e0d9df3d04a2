"""The platform's own tests."""
