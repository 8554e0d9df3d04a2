"""SQL statements, a module per resource: one function, one statement."""
