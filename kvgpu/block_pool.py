"""`BlockPool`: hands out blocks, remembers which are cached, takes them back in eviction order."""

import logging
from collections.abc import Iterable, Sequence
from functools import cached_property
from types import ModuleType
from typing import Any

import numpy as np

from kvgpu.block_list import AllBlocks, BlockList
from kvgpu.blocks import IN_TABLE, NO_IDS, BlockState, Ids, KVCacheBlock
from kvgpu.config import backend_name, int_block_hashes
from kvgpu.errors import (
    ArgumentError,
    BlockIdError,
    ConfigError,
    InvariantError,
    NotEnoughBlocksError,
)
from kvgpu.free_list import pop_free, release, touch
from kvgpu.free_queue import FreeKVCacheBlockQueue
from kvgpu.hashing import BlockHash
from kvgpu.index.journal import Journal
from kvgpu.index.registry import backend_by_name
from kvgpu.invariants import queue_violations
from kvgpu.metrics import KVCacheMetricsCollector
from kvgpu.prefix_cache import NO_MASK, BlockMask, PrefixCache
from kvgpu.table_store import TableStore

logger = logging.getLogger(__name__)


class BlockPool:
    """All blocks of the KV cache.

    Args:
        num_gpu_blocks: Number of blocks; block 0 becomes the null block (fact 11).
        enable_caching: Whether full blocks are kept for reuse.
        hash_block_size: Tokens per block hash; block sizes are multiples of it.
        enable_kv_cache_events: Whether to queue events for `take_events`.
        metrics_collector: Told of every allocation, access and eviction.
        backend: Index backend; `KVGPU_BACKEND` (else `host`) if None.
        journal: Where the index notes its changes, for a copy elsewhere.

    Raises:
        ConfigError: No blocks, a hash block size below 1, an unknown backend, or a bad value of a variable
            that `kvgpu.config` reads.
        DeviceError, MissingPackageError: The backend `triton` or `cuda` cannot be used.

    Construction is O(num_gpu_blocks); a block costs 64 bytes and its share of the table.
    """

    def __init__(
        self,
        num_gpu_blocks: int,
        enable_caching: bool,
        hash_block_size: int,
        enable_kv_cache_events: bool = False,
        metrics_collector: KVCacheMetricsCollector | None = None,
        *,
        backend: str | None = None,
        journal: Journal | None = None,
    ) -> None:
        if not isinstance(num_gpu_blocks, int) or num_gpu_blocks <= 0:
            raise ConfigError(f"a pool needs at least one block, got {num_gpu_blocks!r}")
        if hash_block_size <= 0:
            raise ConfigError(f"hash_block_size must be at least 1 token, got {hash_block_size}")
        if enable_kv_cache_events:
            int_block_hashes()  # a bad value is noticed now, not when the first event is made
        index_type = backend_by_name(backend or backend_name())
        self.num_gpu_blocks = num_gpu_blocks
        self.enable_caching = enable_caching
        self.hash_block_size = hash_block_size
        self.enable_kv_cache_events = enable_kv_cache_events
        self.metrics_collector = metrics_collector
        self.state = BlockState(num_gpu_blocks)
        self.index = index_type(self.state, journal)
        self.blocks = AllBlocks(self.state)
        self.free_block_queue = FreeKVCacheBlockQueue.of_state(self.state)
        self.prefix_cache = PrefixCache(self.state, self.index)
        self.tables = TableStore()
        self.cached_block_hash_to_block = self.prefix_cache.map
        self.kv_event_queue: list[Any] = []
        self.num_reserved_blocks = 0
        self.num_evictions = 0
        self.null_block = self.free_block_queue.popleft()
        self.state.null_id = self.null_block.block_id

    @cached_property
    def _events(self) -> ModuleType:
        """Builders of events; they need msgspec, which a pool without events does not."""
        from kvgpu import event_builders

        return event_builders

    def get_cached_block(
        self, block_hash: BlockHash, kv_cache_group_ids: list[int]
    ) -> list[KVCacheBlock] | None:
        """The first cached block of this hash in each group (fact 12); None unless every group has one.

        Asks the host's table. Expected O(groups).
        """
        return self.prefix_cache.find_all(block_hash, kv_cache_group_ids)

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
            blocks: Its blocks; those before `num_cached_blocks` are not looked at. There may be
                fewer than are full, when the request is longer than the model allows.
            num_cached_blocks: Blocks that were handled before.
            num_full_blocks: Blocks that are full now.
            block_size: Tokens per block, a multiple of the hash block size.
            kv_cache_group_id: Group of the blocks.
            block_mask: Which of the new ones to keep; None for all.

        Raises:
            ArgumentError: The block size is no multiple of the hash block size, or the mask or
                the hashes are too short.
            BlockStateError: A block has a hash already. Nothing is changed by either.

        Null blocks are skipped. Expected O(number of new blocks), and with events O(tokens in them):
        one is queued even if no block is kept (fact 57).
        """
        if num_cached_blocks >= num_full_blocks:
            return
        stride, rest = divmod(block_size, self.hash_block_size)
        if rest:
            raise ArgumentError(
                f"block_size {block_size} is no multiple of hash_block_size {self.hash_block_size}"
            )
        hashes = request.block_hashes
        if len(hashes) < num_full_blocks * stride:
            raise ArgumentError(
                f"request {request.request_id} has {len(hashes)} block hashes, "
                f"{num_full_blocks * stride} are needed; give it a block_hasher"
            )
        if isinstance(blocks, BlockList) and blocks.state is self.state:
            ids = blocks.ids[num_cached_blocks:num_full_blocks]
        else:
            ids = self.state.ids_of(blocks[num_cached_blocks:num_full_blocks])
        mask = NO_MASK if block_mask is None else np.asarray(block_mask, np.bool_)
        if block_mask is not None and len(mask) < len(ids):
            raise ArgumentError(f"a mask of {len(mask)} for {len(ids)} blocks: make them equal")
        chosen = self.prefix_cache.insert(
            ids, hashes, num_cached_blocks * stride, stride, kv_cache_group_id, mask
        )
        if self.enable_kv_cache_events:
            self.kv_event_queue.append(
                self._events.block_stored(
                    request, np.flatnonzero(chosen != -1).tolist(), num_cached_blocks,
                    num_full_blocks, block_size, stride, kv_cache_group_id,
                )
            )  # fmt: skip

    def get_new_blocks(self, num_blocks: int) -> list[KVCacheBlock]:
        """Take `num_blocks` from the head of the free queue; cached ones among them are evicted (fact 14).

        Raises:
            NotEnoughBlocksError: Fewer are free; none is taken.

        Expected O(num_blocks).
        """
        return list(BlockList(self.state, self.allocate(num_blocks)))

    def allocate(self, num_blocks: int) -> Ids:
        """`get_new_blocks` as int32 ids [num_blocks]; raises as that does. Expected O(num_blocks)."""
        if num_blocks <= 0:
            return NO_IDS
        if num_blocks > self.get_num_free_blocks():
            raise NotEnoughBlocksError(
                f"{num_blocks} blocks asked for, {self.get_num_free_blocks()} are free"
            )
        ids: Ids
        ids, num_cached = pop_free(self.state.records, num_blocks, 1)
        if not self.enable_caching:
            num_cached = 0
        if self.metrics_collector is not None or self.cached_block_hash_to_block.extras:
            self._evict_one_by_one(ids)
        elif num_cached:
            self.num_evictions += num_cached
            if self.enable_kv_cache_events:
                for block_id in ids[self.state.records["flags"][ids] & IN_TABLE != 0].tolist():
                    self._note_removed(block_id)
            self.index.erase(ids)
        return ids

    def _evict_one_by_one(self, ids: Ids) -> None:
        for block_id in ids.tolist():
            block = self.state.view(block_id)
            if self.enable_caching:
                self._maybe_evict_cached_block(block)
            if self.metrics_collector is not None:
                self.metrics_collector.on_block_allocated(block)

    def _maybe_evict_cached_block(self, block: KVCacheBlock) -> bool:
        """Forget a cached block; False if it was not cached.

        Quirk kept (fact 14): a hash that the map does not hold stays on the block.
        """
        if self.metrics_collector is not None:
            self.metrics_collector.on_block_evicted(block)
        key = block.block_hash
        if key is None:
            return False
        if self.cached_block_hash_to_block.pop(key, block.block_id) is None:
            return False
        self.num_evictions += 1
        if self.enable_kv_cache_events and block._state is self.state:
            self._note_removed(block._row)
        block.reset_hash()
        return True

    def _note_removed(self, block_id: int) -> None:
        key = self.state.key_of(block_id)
        assert key is not None
        self.kv_event_queue.append(self._events.block_removed(key))

    def touch(self, blocks: Iterable[KVCacheBlock] | Ids) -> None:
        """Count one more user of each block; free ones leave the free queue (fact 15). O(len(blocks))."""
        ids = self.state.ids_of(blocks)
        if self.state.foreign:
            for block_id in ids[ids < 0].tolist():
                self.state.view(block_id).incr_ref()
            ids = ids[ids >= 0]
        touch(self.state.records, ids, self.state.null_id)
        if self.metrics_collector is not None:
            for block_id in ids.tolist():
                self.metrics_collector.on_block_accessed(self.state.view(block_id))

    def free_blocks(
        self,
        ordered_blocks: Iterable[KVCacheBlock] | Ids,
        prepend: bool = False,
        *,
        backwards: bool = False,
    ) -> None:
        """Count one user less of each block; those without any become free, still cached (fact 16).

        Args:
            ordered_blocks: Blocks, or their ids, int32 [n]; the first is evicted first.
            prepend: Put them before all other free blocks instead of behind.
            backwards: Take them in reversed order.

        O(blocks).
        """
        ids = self.state.ids_of(ordered_blocks)
        if self.state.foreign:
            for block_id in ids[ids < 0].tolist():
                self.state.view(block_id).decr_ref()
            ids = ids[ids >= 0]
        release(self.state.records, ids, self.state.null_id, backwards, prepend)

    def evict_blocks(self, block_ids: Iterable[int]) -> None:
        """Make blocks unfindable; those in use stay in use.

        Raises:
            BlockIdError: An id is outside the pool; nothing is evicted.

        For each id expected O(blocks with the same key), usually one.
        """
        block_ids = list(block_ids)
        for block_id in block_ids:
            if not 0 <= block_id < self.num_gpu_blocks:
                raise BlockIdError(
                    f"block id {block_id} is outside the pool of {self.num_gpu_blocks} blocks"
                )
        for block_id in block_ids:
            self._maybe_evict_cached_block(self.state.view(block_id))

    def reset_prefix_cache(self) -> bool:
        """Forget all cached blocks, for example after new weights. O(num_gpu_blocks).

        Returns:
            False, with a warning and nothing changed, while a request holds blocks.
        """
        used = self.num_gpu_blocks - self.get_num_free_blocks() - self.num_reserved_blocks
        if used != 1:
            logger.warning(
                "The prefix cache was not reset: %d blocks are in use; free all requests first",
                used - 1,
            )
            return False
        self.prefix_cache.clear()
        if self.metrics_collector is not None:
            self.metrics_collector.reset()
        if self.enable_kv_cache_events:
            self.kv_event_queue.append(self._events.all_blocks_cleared())
        logger.info("The prefix cache was reset")
        return True

    def get_num_free_blocks(self) -> int:
        """Blocks that can be allocated. O(1)."""
        return self.free_block_queue.num_free_blocks

    def get_usage(self) -> float:
        """Fraction of blocks in use, 0.0 to 1.0, the null block left out. O(1)."""
        total = self.num_gpu_blocks - 1
        return 1.0 - self.get_num_free_blocks() / total if total else 0.0

    def take_events(self) -> list[Any]:
        """Events since the last call, in the order in which things happened; none if they are off. O(1)."""
        if not self.enable_kv_cache_events:
            return []
        events, self.kv_event_queue = self.kv_event_queue, []
        return events

    @property
    def nbytes(self) -> int:
        """Bytes of the records and of the table, its copy on a device included. O(1)."""
        return int(self.state.records.nbytes) + self.index.nbytes

    def check(self) -> None:
        """Compare queue, reference counts, records and table in full. O(num_gpu_blocks).

        Waits for the device where the index has one.

        Raises:
            InvariantError: Something does not hold; the message lists all that was found.
            DeviceError: The index has a device, and this process was forked from the one that made it.
        """
        found = queue_violations(self.state)
        try:
            self.index.check()
        except InvariantError as error:
            found.append(str(error))
        if found:
            raise InvariantError("; ".join(found))
