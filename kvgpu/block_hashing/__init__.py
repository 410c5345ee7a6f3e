"""Hashing blocks in bulk: whole chains from arrays of tokens, byte for byte what `kvgpu.hashing` gives."""
