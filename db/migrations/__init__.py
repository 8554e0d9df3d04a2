"""The migrations: the platform's (`platform`) and those of the contract (`versions`)."""
