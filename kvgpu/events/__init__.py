"""Events that tell of stored and removed blocks."""
