"""SQL of the generic operations on contract tables, and pagination."""
