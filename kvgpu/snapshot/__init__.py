"""What a restart can begin with: which blocks are cached under which keys, and in which order they are evicted."""
