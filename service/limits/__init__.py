"""Rate limits, counted in memory or in Redis."""
