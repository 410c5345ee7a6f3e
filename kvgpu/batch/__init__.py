"""Many requests in one call."""
