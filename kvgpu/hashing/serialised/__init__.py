"""Bulk hashing of serialised blocks with SHA-256 and XXH3."""
