"""HTTP: the protocol, the middlewares around every request, and problems."""
