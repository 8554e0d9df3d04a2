"""Operations: read and validate a request, call the handler, return its response."""
