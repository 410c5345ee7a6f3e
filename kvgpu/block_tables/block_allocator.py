"""`BlockAllocator`: takes blocks from the free queue for block tables, and gives them back."""

import logging

import numpy as np

from kvgpu.blocks.block_list import BlockList
from kvgpu.blocks.lru import pop_free, touch
from kvgpu.blocks.lru_release import release, release_by_hash
from kvgpu.blocks.record import IN_TABLE, NO_IDS, Ids
from kvgpu.blocks.state import KVCacheBlock
from kvgpu.errors import NotEnoughBlocksError
from kvgpu.events.event_queue import EventQueue
from kvgpu.exclusive import Turn
from kvgpu.index.prefix_cache import PrefixCache
from kvgpu.metrics import KVCacheMetricsCollector

logger = logging.getLogger(__name__)

REQUESTED, RESET = "requested", "reset"
"""Reasons to forget cached blocks other than that new ones need them: `evict_blocks`, and `reset_prefix_cache`."""


class BlockAllocator:
    """Takes free blocks, which evicts what is cached in them, and frees blocks without users.

    It takes ids, which its callers have checked; `BlockPool` is for everybody else.

    Args:
        prefix_cache: What is cached in the blocks of a pool.
        events: Told of evictions.
        turn: Of the pool.
        metrics_collector: Told of allocations, accesses and evictions; None for nobody.
        enable_caching: Whether blocks can be cached at all.

    Attributes:
        num_evictions: Cached blocks that were taken for new ones so far.
        num_forgotten: Cached blocks that were forgotten for other reasons so far, by reason.
    """

    def __init__(
        self,
        prefix_cache: PrefixCache,
        events: EventQueue,
        turn: Turn,
        metrics_collector: KVCacheMetricsCollector | None,
        enable_caching: bool,
    ) -> None:
        self.metrics_collector = metrics_collector
        self.num_evictions = 0
        self.num_forgotten = {REQUESTED: 0, RESET: 0}
        self._prefix_cache, self._state = prefix_cache, prefix_cache.state
        self._index, self._map, self._further = prefix_cache.index, prefix_cache.map, prefix_cache.further
        self._events, self._turn = events, turn
        self._enable_caching = enable_caching

    def take(self, num_blocks: int) -> Ids:
        """Take the first blocks of the free queue, int32 [num_blocks]; none if the number is below 0.

        Raises:
            NotEnoughBlocksError: Fewer blocks are free; none is taken.

        Expected O(num_blocks).
        """
        if num_blocks <= 0:
            return NO_IDS
        num_free = self._state.queue.num_free_blocks
        if num_blocks > num_free:
            raise NotEnoughBlocksError(f"{num_blocks} blocks were requested, but {num_free} are free")
        ids: Ids = pop_free(*self._state.free, num_blocks, 1)
        cached = self._state.records["flags"][ids] & IN_TABLE != 0
        num_cached = int(np.count_nonzero(cached)) if self._enable_caching else 0
        if self.metrics_collector is not None or self._map.extras or self._further.is_aliased(ids):
            self._evict_one_by_one(ids)
        elif num_cached:
            self.num_evictions += num_cached
            if self._events.enabled:
                for block_id in ids[cached].tolist():
                    self._note_removed(block_id)
            self._index.erase(ids)
        return ids

    def _evict_one_by_one(self, ids: Ids) -> None:
        for block in BlockList(self._state, ids):
            if self._enable_caching and self.evict(block):
                self.num_evictions += 1
            if self.metrics_collector is not None:
                self._turn.tell(self.metrics_collector.on_block_allocated, block)

    def evict(self, block: KVCacheBlock) -> bool:
        """Forget a cached block; return False if it was not cached.

        A quirk of vLLM's (fact 14): a hash that the map does not hold stays on the block.
        """
        if self.metrics_collector is not None:
            self._turn.tell(self.metrics_collector.on_block_evicted, block)
        if block.block_id in self._further.aliases and block._state is self._state:
            self.forget(block)
            return True
        key = block.block_hash
        if key is None:
            return False
        if self._map.pop(key, block.block_id) is None:
            return False
        if self._events.enabled and block._state is self._state:
            self._note_removed(block._row)
        block.reset_hash()
        return True

    def forget(self, block: KVCacheBlock) -> None:
        """Forget all keys of a block, with an event for each under which it was found (B92). O(keys of the block)."""
        for key in self._further.remove(block):
            self._events.removed(key)

    def evict_all(self) -> None:
        """Forget all cached blocks. O(blocks of the pool)."""
        self.num_forgotten[RESET] += int(np.count_nonzero(self._state.records["flags"] & IN_TABLE))
        self._prefix_cache.clear()
        if self.metrics_collector is not None:
            self._turn.tell(self.metrics_collector.reset)
        self._events.cleared()

    def restore(self) -> None:
        """Bring the cached blocks in order after an interrupted call; if their records are broken, forget all.

        O(blocks of the pool).
        """
        if not self._prefix_cache.restore():
            logger.error("The prefix cache was emptied: the records of its blocks were broken")
            self._events.cleared()

    def _note_removed(self, block_id: int) -> None:
        key = self._state.key_of(block_id)
        assert key is not None
        self._events.removed(key)

    def take_hits(self, ids: Ids) -> None:
        """Add one user to each cached block, int32 [n]; free ones leave the free queue. O(n)."""
        touch(*self._state.free, ids, self._state.null_id)
        if self.metrics_collector is not None:
            for block in BlockList(self._state, ids):
                self._turn.tell(self.metrics_collector.on_block_accessed, block)

    def give_back(self, ids: Ids, prepend: bool = False, *, backwards: bool = False) -> None:
        """Take one user from each block, int32 [n]; those without users become free, the first to be evicted first.

        Args:
            ids: Blocks; null blocks are skipped.
            prepend: Whether to put them before all other free blocks instead of after them.
            backwards: Whether to take them in reverse order.

        O(n), without memory.
        """
        release(*self._state.free, self._own(ids), self._state.null_id, backwards, prepend)

    def give_back_by_hash(self, ids: Ids) -> None:
        """Give back blocks, last block first: those without a hash are evicted before all others, the rest last.

        See fact 27. O(n), without memory.
        """
        release_by_hash(*self._state.free, self._state.records, self._own(ids), self._state.null_id)

    def _own(self, ids: Ids) -> Ids:
        """Return the blocks of this pool; remove a user from blocks of other pools.

        A test suite may have put blocks of other pools into a block table.
        """
        if not self._state.foreign:
            return ids
        for block_id in ids[ids < 0].tolist():
            self._state.view(block_id).decr_ref()
        return ids[ids >= 0]
