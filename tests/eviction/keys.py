"""Hashes of made-up blocks, and what policies take for their keys."""

from hashlib import sha256


def hash_of(number):
    return sha256(number.to_bytes(8, "little")).digest()


def key_of(number):
    """The key of a block in group 0: see `kvgpu.eviction.state.members.key_of`."""
    words = [int.from_bytes(hash_of(number)[at : at + 8], "little", signed=True) for at in (0, 8)]
    return words[0] ^ words[1]
