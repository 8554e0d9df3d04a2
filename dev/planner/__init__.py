"""Compares the contract's tables with a database and writes the revision that aligns them."""
