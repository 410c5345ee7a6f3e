"""What policies of eviction keep of blocks and keys, in arrays, and what they do with it."""
