"""The contract, and the reader that checks it."""
