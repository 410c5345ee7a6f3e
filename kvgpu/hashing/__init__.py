"""Block hashes: the hash functions, their inputs, hashing in bulk, and arrays of hashes."""
