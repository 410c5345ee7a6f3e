"""`PoolCaching`: the calls of a block pool that make blocks reusable, whole ones and parts of them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kvgpu.arguments import hashes_of, ids_to_cache, own_blocks, refuse_odd_hashes, truths
from kvgpu.block_tables.block_allocator import BlockAllocator
from kvgpu.blocks.eviction_calls import note_cached
from kvgpu.blocks.state import BlockState, KVCacheBlock
from kvgpu.errors import ArgumentError, BlockStateError
from kvgpu.exclusive import exclusive
from kvgpu.hashing.block_range import BlockRange
from kvgpu.hashing.map_keys import BlockHashWithGroupId, checked_group, make_block_hash_with_group_id
from kvgpu.index.prefix_cache import NO_MASK, BlockMask, PrefixCache
from kvgpu.integers import as_integer, as_switch
from kvgpu.pool.pool_events import PoolEvents

if TYPE_CHECKING:
    from kvgpu.eviction.policy import Eviction


class PoolCaching(PoolEvents):
    """Base of `BlockPool`, which sets the attributes.

    Attributes:
        state: Records of the blocks.
        prefix_cache: What is cached in them.
        allocator: Forgets keys.
        eviction: What says which blocks are taken first; None for the least recently used.
    """

    state: BlockState
    prefix_cache: PrefixCache
    allocator: BlockAllocator
    eviction: "Eviction | None" = None

    @exclusive
    def cache_full_blocks(
        self,
        request: Any,
        blocks: Sequence[KVCacheBlock],
        num_cached_blocks: int,
        num_full_blocks: int,
        block_size: int,
        kv_cache_group_id: int,
        block_mask: Sequence[bool] | BlockMask | None = None,
    ) -> None:
        """Make blocks [num_cached_blocks, num_full_blocks) of a request reusable (fact 25).

        Args:
            request: Has `block_hashes`, `all_token_ids` and the extra-key attributes.
            blocks: Its blocks; those before `num_cached_blocks` are ignored. There may be
                fewer blocks than are full if the request is longer than the model allows.
            num_cached_blocks: Number of blocks that were handled before.
            num_full_blocks: Number of blocks that are full now.
            block_size: Tokens per block, a multiple of the hash block size.
            kv_cache_group_id: Group of the blocks.
            block_mask: Which of the new blocks to cache; None for all.

        Raises:
            ArgumentError: A number is out of range, the block size is not a multiple of the hash block size, or the
                mask or the hashes are too short.
            ArgumentTypeError: An argument is not a number, a block or a truth value as required.
            BlockIdError: A block that was made by hand has an id outside the pool.
            BlockStateError: A block already has a hash, unless it is one for a part of its tokens, which all its keys
                then make room for (B22). None of these errors changes anything.
            Exception: The code that makes events raised it. The blocks are cached, without an event.

        Null blocks are skipped. Expected O(number of new blocks), and with events O(tokens in them):
        an event is queued even if no block is cached (fact 57).
        """
        new = BlockRange.checked(
            num_cached_blocks, num_full_blocks, block_size, kv_cache_group_id, self.hash_block_size
        )
        if new.first >= new.end:
            return
        hashes = hashes_of(request, getattr(request, "request_id", None), new.end * new.stride)
        ids = ids_to_cache(self.state, blocks, new)
        mask = NO_MASK if block_mask is None else truths("block_mask", block_mask)
        if block_mask is not None and len(mask) < len(ids):
            raise ArgumentError(f"a mask of shape {mask.shape} is too short for {len(ids)} blocks")
        cache = self.prefix_cache
        for block_id in cache.to_promote(ids, mask, new):
            self.allocator.forget(self.state.view(block_id))
        chosen = cache.insert(ids, hashes, new.first * new.stride, new.stride, new.group, mask)
        cache.further.measure(chosen, np.arange(new.first + 1, new.first + 1 + len(ids)) * new.block_size)
        if self.eviction is not None:
            note_cached(self.state.free.queue_words, np.ascontiguousarray(ids), new.first)
        self.events.stored(request, chosen, new)

    @exclusive
    def cache_partial_block(
        self,
        request: Any,
        block: KVCacheBlock,
        num_tokens: int,
        kv_cache_group_id: int,
        block_size: int,
        replace_existing_hashes: bool = False,
    ) -> BlockHashWithGroupId | None:
        """Make a block reusable for a prefix that ends inside it (B23).

        The key becomes the block's own if it has none, or one for fewer tokens; else it becomes an alias.

        Args:
            request: Has `block_hashes`, `all_token_ids` and the extra-key attributes.
            block: Holds the last tokens of the prefix; a null block is left alone.
            num_tokens: Tokens of the prefix, a multiple of the hash block size.
            kv_cache_group_id: Group of the block.
            block_size: Tokens per block, a multiple of the hash block size.
            replace_existing_hashes: Whether the block holds other tokens than before: all its keys are forgotten first.

        Returns:
            The key; None for a null block.

        Raises:
            ArgumentError: A number is out of range or no such multiple, the request has too few hashes, or the block
                belongs to another pool.
            ArgumentTypeError: An argument is not a number, a block or a request as required. Neither changes anything.
            Exception: The code that makes events raised it. The block is cached, without an event.

        Expected O(keys of the block), and with events O(hash block).
        """
        unit = self.hash_block_size
        size, num_tokens = as_integer("block_size", block_size, 1), as_integer("num_tokens", num_tokens, 1)
        if size % unit or num_tokens % unit:
            raise ArgumentError(
                f"block_size {size} and num_tokens {num_tokens} must be multiples of hash_block_size {unit}"
            )
        group, replaces = (
            checked_group(kv_cache_group_id),
            as_switch("replace_existing_hashes", replace_existing_hashes),
        )
        last = num_tokens // unit - 1
        hashes = hashes_of(request, getattr(request, "request_id", None), last + 1)
        refuse_odd_hashes(getattr(request, "request_id", None), hashes[last : last + 1])
        ids = own_blocks(self.state, [block])
        if block.is_null:
            return None
        key, further = make_block_hash_with_group_id(hashes[last], group), self.prefix_cache.further
        is_known = block.block_hash == key or self.prefix_cache.map.contain(key, block.block_id)
        covered = block.block_hash_num_tokens
        if replaces or (not is_known and covered is not None and covered < num_tokens):
            self.allocator.forget(block)
            is_known = False
        further.insert(key, block, num_tokens)
        if not is_known:
            self.events.stored(request, ids, BlockRange(last, last + 1, unit, 1, group))
        return key

    @exclusive
    def move_block_hashes(self, src_block: KVCacheBlock, dst_block: KVCacheBlock) -> None:
        """Have a block found under all keys of another one, which loses them; no event says so (B27).

        Raises:
            ArgumentError: A block belongs to another pool.
            BlockStateError: The second block has a key already. Neither changes anything.

        O(keys of the block).
        """
        own_blocks(self.state, [src_block, dst_block])
        if dst_block.block_hash is not None or dst_block.block_id in self.prefix_cache.further.aliases:
            raise BlockStateError(
                f"block {dst_block.block_id} has keys already, and cannot take those of another block"
            )
        self.prefix_cache.further.move(src_block, dst_block)

    def is_block_writable(self, block: KVCacheBlock) -> bool:
        """Whether the only user of a block may write to it: nobody can find it, and it is not a null block. O(1)."""
        return not block.is_null and block.ref_cnt == 1 and block.block_hash is None

    @property
    def cached_block_hashes_by_block(self) -> dict[int, set[BlockHashWithGroupId]]:
        """The aliases of blocks: keys besides `block_hash`, by block id; a copy (B20). O(aliases)."""
        return {block_id: set(keys) for block_id, keys in self.prefix_cache.further.aliases.items()}
