"""Blocks of a pool: records, free queue, lists."""
