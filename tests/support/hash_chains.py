"""Chains of block hashes, computed block by block: what hashing in bulk has to give."""

from typing import Any

from kvgpu.hashing import functions as hashing


def chain(function: Any, tokens: Any, size: int, extras: Any = (), parent: Any = None) -> list[bytes]:
    """Hashes of the full blocks of `tokens`; extras by block, None where missing."""
    hashes = []
    for place in range(len(tokens) // size):
        extra = extras[place] if place < len(extras) else None
        block = tokens[place * size : (place + 1) * size]
        parent = hashing.hash_block_tokens(function, parent, block, extra)
        hashes.append(parent)
    return hashes
