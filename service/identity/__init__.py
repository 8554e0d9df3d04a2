"""Identity: signing keys, tokens, and who sends a request."""
