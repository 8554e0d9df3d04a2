"""SQL of the operations on contract tables that need no code, and their pages."""
