"""`make resource`: adds a resource with its operations and schemas to the contract."""
