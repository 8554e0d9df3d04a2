"""`make resilience`: injects the faults of production into a loaded service and measures them."""
