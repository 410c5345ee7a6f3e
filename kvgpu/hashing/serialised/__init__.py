"""SHA-256 and XXH3 of serialised blocks, in bulk."""
