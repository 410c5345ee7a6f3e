"""Keys of the prefix-cache map: a block hash and the cache group of the block; and hashes as events have them."""

from typing import Any, NewType

from kvgpu.environment import int_block_hashes
from kvgpu.errors import ArgumentTypeError
from kvgpu.hashing.functions import BlockHash
from kvgpu.integers import as_integer, shown

BlockHashWithGroupId = NewType("BlockHashWithGroupId", bytes)
"""A block hash followed by the group id as 4 bytes, big-endian: the key of the prefix-cache map."""

ExternalBlockHash = bytes | int
"""A block hash in an event."""

GROUP_ID_BYTES = 4
MAX_GROUP_NUMBER = (1 << 8 * GROUP_ID_BYTES) - 1
LOW_64_BITS = (1 << 64) - 1


def checked_group(group: Any) -> int:
    """Return the number of a cache group, checked to fit into the four bytes that it has in a key. O(1).

    Raises:
        ArgumentTypeError: The number is not an integer.
        ArgumentError: The number is below 0, or too large.
    """
    return as_integer("the number of a group", group, 0, MAX_GROUP_NUMBER)


def make_block_hash_with_group_id(block_hash: BlockHash, group_id: int) -> BlockHashWithGroupId:
    """Make the key of a block hash in a cache group.

    Args:
        block_hash: The hash.
        group_id: 0 to 2**32 - 1.

    Raises:
        ArgumentError: The group id is outside this range.
        ArgumentTypeError: The hash is not bytes, or the group id is not an integer.

    O(1).
    """
    if not isinstance(block_hash, bytes):
        raise ArgumentTypeError(f"a block hash in bytes is expected, got {shown(block_hash)}")
    group = checked_group(group_id)
    return BlockHashWithGroupId(block_hash + group.to_bytes(GROUP_ID_BYTES, "big"))


def _check_key(key: Any) -> None:
    """Raise `ArgumentTypeError` for anything but bytes."""
    if not isinstance(key, bytes):
        raise ArgumentTypeError(f"a block hash with its group, in bytes, is expected, got {shown(key)}")


def get_block_hash(key: BlockHashWithGroupId) -> BlockHash:
    """Return the block hash in a key.

    Raises:
        ArgumentTypeError: The key is not bytes.

    O(1).
    """
    _check_key(key)
    return BlockHash(key[:-GROUP_ID_BYTES])


def get_group_id(key: BlockHashWithGroupId) -> int:
    """Return the group id in a key.

    Raises:
        ArgumentTypeError: The key is not bytes.

    O(1).
    """
    _check_key(key)
    return int.from_bytes(key[-GROUP_ID_BYTES:], "big")


def maybe_convert_block_hash(block_hash: BlockHash) -> ExternalBlockHash:
    """Convert a hash to the form that events have: its low 64 bits as a big-endian integer.

    If `VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES` is 0, the hash stays as it is. O(1).
    """
    if not int_block_hashes():
        return block_hash
    return int.from_bytes(block_hash, "big") & LOW_64_BITS
