"""Parts of bulk hashing that all hash functions share: blocks, memory for hashes, and threads."""
