"""Block hashes: functions, extra keys, token ids, and hashing in bulk."""
