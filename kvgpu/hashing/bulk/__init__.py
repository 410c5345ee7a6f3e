"""What all ways to hash in bulk share."""
