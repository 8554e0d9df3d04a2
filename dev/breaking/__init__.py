"""`make breaking`: what changes between two contracts, and whether that breaks something."""
