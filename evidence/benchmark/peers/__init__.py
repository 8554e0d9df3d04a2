"""The same API written by hand with other frameworks, to compare with."""
