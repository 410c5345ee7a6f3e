"""Orders of eviction, one file each: where a block that has become free is placed, and which one goes next."""
