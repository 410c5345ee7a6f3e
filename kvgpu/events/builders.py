"""Builders of events, from what the pool does."""

from collections.abc import Sequence
from typing import Any

from kvgpu.events.messages import MEDIUM_GPU, AllBlocksCleared, BlockRemoved, BlockStored
from kvgpu.hashing.block_range import BlockRange, joined_hash
from kvgpu.hashing.inputs.extra_keys import ExtraKeys, generate_block_hash_extra_keys
from kvgpu.hashing.map_keys import (
    BlockHashWithGroupId,
    ExternalBlockHash,
    get_block_hash,
    get_group_id,
    maybe_convert_block_hash,
)


def _external(hashes: Sequence[bytes], block: int, stride: int) -> ExternalBlockHash:
    return maybe_convert_block_hash(joined_hash(hashes, block, stride))


def block_stored(request: Any, kept: list[int], blocks: BlockRange) -> BlockStored:
    """Build the event for blocks of a request.

    Quirks, for compatibility (fact 57): the event is built even if no block was stored, its tokens cover the whole
    range, and its parent is the logical block before the range, whether or not that block is cached.

    Args:
        request: An object with `block_hashes`, `all_token_ids` and the extra-key attributes.
        kept: Blocks that were stored, counted from the first of the range.
        blocks: The range.
    """
    first_block, end_block, block_size, stride, group = blocks
    hashes = request.block_hashes
    extra_keys: list[ExtraKeys] = []
    mm_index = 0
    for block in kept:
        begin = (first_block + block) * block_size
        keys, mm_index = generate_block_hash_extra_keys(request, begin, begin + block_size, mm_index)
        extra_keys.append(keys)
    lora = getattr(request, "lora_request", None)
    tokens = request.all_token_ids[first_block * block_size : end_block * block_size]
    return BlockStored(
        block_hashes=[_external(hashes, first_block + block, stride) for block in kept],
        parent_block_hash=_external(hashes, first_block - 1, stride) if first_block else None,
        # msgpack cannot encode NumPy integers.
        token_ids=tokens.tolist() if hasattr(tokens, "tolist") else list(tokens),
        block_size=block_size,
        lora_id=lora.adapter_id if lora else None,
        medium=MEDIUM_GPU,
        lora_name=lora.lora_name if lora else None,
        extra_keys=extra_keys or None,
        group_idx=group,
    )


def all_blocks_cleared() -> AllBlocksCleared:
    """Build the event for a reset of the whole cache."""
    return AllBlocksCleared()


def block_removed(key: BlockHashWithGroupId) -> BlockRemoved:
    """Build the event for one block that can no longer be found under its key."""
    return BlockRemoved(
        block_hashes=[maybe_convert_block_hash(get_block_hash(key))], medium=MEDIUM_GPU, group_idx=get_group_id(key)
    )
