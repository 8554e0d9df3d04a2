"""`make fuzz`: Schemathesis against the running service, with valid tokens and existing ids."""
