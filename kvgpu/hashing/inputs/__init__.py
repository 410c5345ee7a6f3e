"""Inputs of the hash functions: token ids and extra keys."""
