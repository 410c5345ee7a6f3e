"""`BlockRange`: consecutive blocks of a request in one cache group; and the hash of a block with several hashes."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from kvgpu.errors import ArgumentError
from kvgpu.hashing.functions import BlockHash
from kvgpu.hashing.map_keys import checked_group
from kvgpu.integers import as_integer


class BlockRange(NamedTuple):
    """Blocks [first, end) of a request."""

    first: int
    end: int
    block_size: int
    """Tokens per block."""
    stride: int
    """Hashes per block."""
    group: int

    @classmethod
    def checked(cls, first: Any, end: Any, block_size: Any, group: Any, hash_block_size: int) -> "BlockRange":
        """Make a range from arguments of `BlockPool.cache_full_blocks`. O(1).

        Raises:
            ArgumentTypeError: An argument is not an integer.
            ArgumentError: One is out of range, or blocks of this size do not consist of whole hash blocks.
        """
        first = as_integer("num_cached_blocks", first)
        end = as_integer("num_full_blocks", end)
        size = as_integer("block_size", block_size, 1)
        stride, rest = divmod(size, hash_block_size)
        if rest and first < end:
            raise ArgumentError(f"block_size {size} is not a multiple of hash_block_size {hash_block_size}")
        return cls(first, end, size, stride, checked_group(group))


def joined_hash(hashes: Sequence[bytes], block: int, stride: int) -> BlockHash:
    """Return the hash of a block that spans `stride` hash blocks: all of theirs, one after the other (fact 10)."""
    return BlockHash(b"".join(hashes[block * stride : (block + 1) * stride]))


def end_hash(hashes: Sequence[bytes], block: int, stride: int) -> BlockHash:
    """Return the hash of a block that spans `stride` hash blocks: the last of theirs, which covers the others (B5)."""
    return BlockHash(hashes[(block + 1) * stride - 1])
