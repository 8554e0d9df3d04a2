"""Tests derived from the contract: they cover your tables and migrations without a line of code."""
