"""`EventBuilder`: makes events of what the pool does, in the form that a version of vLLM gives them."""

from collections.abc import Iterable
from typing import Any

from kvgpu.config.behaviour import Behaviour
from kvgpu.events import maps
from kvgpu.events.messages import MEDIUM_GPU, AllBlocksCleared, BlockRemoved, BlockStored
from kvgpu.hashing.block_range import BlockRange, end_hash, joined_hash
from kvgpu.hashing.inputs.extra_keys import ExtraKeys, generate_block_hash_extra_keys
from kvgpu.hashing.map_keys import (
    BlockHashWithGroupId,
    ExternalBlockHash,
    get_block_hash,
    get_group_id,
    maybe_convert_block_hash,
)


def shown_extra_keys(request: Any, begins: Iterable[int], block_size: int, num_lookahead: int) -> list[ExtraKeys]:
    """Return the extra keys of blocks as events show them. O(items of the request + blocks).

    This is the only place where an event learns extra keys. They have no tags, however a hash is made (B3), and are
    those of all tokens that the hash covers: of the block and of the look-ahead after it (B94).

    Args:
        request: An object with the extra-key attributes.
        begins: First token of each block, ascending.
        block_size: Tokens per block.
        num_lookahead: Tokens after a block that its hash covers, too.
    """
    shown: list[ExtraKeys] = []
    item = 0
    for begin in begins:
        end = begin + block_size
        keys, item = generate_block_hash_extra_keys(request, begin, end + num_lookahead, item)
        shown.append(keys)
        # Items that reach into the next block lie in its window again, also if they end within the look-ahead.
        while num_lookahead and item and _end_of(request.mm_features[item - 1]) > end:
            item -= 1
    return shown


def _end_of(feature: Any) -> int:
    position = feature.mm_position
    return int(position.offset + position.length)


class EventBuilder:
    """Makes the events of one pool.

    Args:
        behaviour: Says whether events are arrays or maps, and which hash a block of several hash blocks shows.
        num_lookahead: Tokens after a block that its hash covers, too. Only maps can show them.
    """

    def __init__(self, behaviour: Behaviour, num_lookahead: int = 0) -> None:
        self._num_lookahead = num_lookahead
        self._maps_events = behaviour.maps_events
        self._hash_of = end_hash if behaviour.keys_by_last_hash else joined_hash
        # Maps are subclasses of arrays.
        self._stored: type[BlockStored] = maps.BlockStored if behaviour.maps_events else BlockStored
        self._removed: type[BlockRemoved] = maps.BlockRemoved if behaviour.maps_events else BlockRemoved
        self._cleared: type[AllBlocksCleared] = maps.AllBlocksCleared if behaviour.maps_events else AllBlocksCleared

    def block_stored(self, request: Any, kept: list[int], blocks: BlockRange) -> BlockStored:
        """Build the event for blocks of a request. O(tokens of the range).

        Quirks, for compatibility (fact 57): the event is built even if no block was stored, its tokens cover the whole
        range, and its parent is the logical block before the range, whether or not that block is cached.

        Args:
            request: An object with `block_hashes`, `all_token_ids` and the extra-key attributes.
            kept: Blocks that were stored, counted from the first of the range.
            blocks: The range.
        """
        first_block, end_block, block_size, stride, group = blocks
        begins = [(first_block + block) * block_size for block in kept]
        lora = getattr(request, "lora_request", None)
        return self._stored(
            block_hashes=[self._shown_hash(request, first_block + block, stride) for block in kept],
            parent_block_hash=self._shown_hash(request, first_block - 1, stride) if first_block else None,
            token_ids=_tokens(request, first_block * block_size, end_block * block_size),
            block_size=block_size,
            lora_id=lora.adapter_id if lora else None,
            medium=MEDIUM_GPU,
            lora_name=lora.lora_name if lora else None,
            extra_keys=shown_extra_keys(request, begins, block_size, self._num_lookahead) or None,
            group_idx=group,
            **(self._only_in_maps(request, begins, block_size) if self._maps_events else {}),
        )

    def _shown_hash(self, request: Any, block: int, stride: int) -> ExternalBlockHash:
        return maybe_convert_block_hash(self._hash_of(request.block_hashes, block, stride))

    def _only_in_maps(self, request: Any, begins: list[int], block_size: int) -> dict[str, Any]:
        """Return the fields of a stored event that only maps have (B91, B94)."""
        length = self._num_lookahead
        ends = [begin + block_size for begin in begins]
        return {
            "session_id": getattr(request, "session_id", None),
            "lookahead_token_ids": [_tokens(request, end, end + length) for end in ends] if length else None,
        }

    def block_removed(self, key: BlockHashWithGroupId) -> BlockRemoved:
        """Build the event for one block that can no longer be found under its key. O(1)."""
        return self._removed(
            block_hashes=[maybe_convert_block_hash(get_block_hash(key))], medium=MEDIUM_GPU, group_idx=get_group_id(key)
        )

    def all_blocks_cleared(self) -> AllBlocksCleared:
        """Build the event for a reset of the whole cache. O(1)."""
        return self._cleared()


def _tokens(request: Any, begin: int, end: int) -> list[int]:
    tokens = request.all_token_ids[begin:end]
    # msgpack cannot encode NumPy integers.
    return tokens.tolist() if hasattr(tokens, "tolist") else list(tokens)
