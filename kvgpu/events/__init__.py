"""Events that report stored and removed blocks."""
