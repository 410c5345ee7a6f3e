"""`ArrayAllocator`: compiled allocation for the managers whose state lies in arrays."""

from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from kvgpu.allocation import BAD_HITS, FITS, HASHED_BEFORE, allocate_one
from kvgpu.arguments import refuse_odd_hashes
from kvgpu.block_hashes import BlockHashes
from kvgpu.block_list import BlockList
from kvgpu.blocks import NO_IDS, Ids
from kvgpu.coordinators.base import KVCacheCoordinator
from kvgpu.errors import BlockStateError
from kvgpu.groups.chunked_local import ChunkedLocalAttentionManager
from kvgpu.groups.full import FullAttentionManager
from kvgpu.groups.sink import SinkFullAttentionManager
from kvgpu.groups.sliding_window import SlidingWindowManager
from kvgpu.groups.steps import EVICTED, KEYS, OFFENDER, TALLY_WORDS
from kvgpu.index.base import Rows
from kvgpu.index.host import HostIndex
from kvgpu.kernels.layout import KEY_WORDS
from kvgpu.slots import SlotNumbers, are_distinct, raise_bad_hit
from kvgpu.table_store import QUIET

COMPILED = (
    FullAttentionManager, SinkFullAttentionManager, SlidingWindowManager, ChunkedLocalAttentionManager,
)  # fmt: skip
"""Kinds of groups whose rules compiled code knows; exactly these, since a subclass may differ."""

NO_ROWS: Rows = np.empty((0, KEY_WORDS), np.int64)


class ArrayAllocator:
    """`allocate_slots` in one compiled call.

    Args:
        coordinator: Whose groups are served; see `serves`.

    Attributes:
        groups: GROUP_RECORD [groups], see `kvgpu.groups.rules`.
    """

    def __init__(self, coordinator: KVCacheCoordinator) -> None:
        self.managers = coordinator.single_type_managers
        self.pool = coordinator.block_pool
        self.store = self.pool.tables
        index = self.pool.index
        assert isinstance(index, HostIndex)
        self.index = index
        self.groups = coordinator.group_records
        self._tables = [manager.req_to_blocks for manager in self.managers]
        self._no_ends = np.zeros(len(self.managers) + 1, np.int64)

    @staticmethod
    def serves(coordinator: KVCacheCoordinator) -> bool:
        """Whether all that the coordinator's calls touch lies in arrays.

        Not so with an index without a table, with events or a collector that are told of single blocks, with
        blocks of several hashes, or with recurrent states and cross attention.
        """
        pool = coordinator.block_pool
        managers = coordinator.single_type_managers
        return (
            len(managers) > 0
            and isinstance(pool.index, HostIndex)
            and not pool.enable_kv_cache_events
            and pool.metrics_collector is None
            and all(type(manager) in COMPILED for manager in managers)
            and (
                not pool.enable_caching
                or all(manager.block_size == pool.hash_block_size for manager in managers)
            )
        )

    def ready(self) -> bool:
        """False while there are keys, blocks or lists that live outside the arrays. O(1)."""
        pool = self.pool
        return not (
            pool.cached_block_hash_to_block.extras or pool.state.foreign or self.store.mirrors
        )

    def _rows(
        self,
        request_id: str,
        hashes: Sequence[bytes],
        computed: Sequence[Ids],
        takes_hits: bool,
        stop: int,
    ) -> tuple[Rows | None, int]:
        """Key words of the hashes that may be cached, and the place of the first in the request.

        None where the records cannot hold them. Of an array all are taken, of a list those that are needed.
        """
        state = self.pool.state
        if not stop:
            return NO_ROWS, 0
        if state.width is None:
            state.adopt_width(len(hashes[0]))
        if not (isinstance(hashes, BlockHashes) and hashes.linked):
            self.index.settle_for_good()
        if isinstance(hashes, BlockHashes):
            return (hashes.rows if hashes.width == state.width else None), 0
        held = [table.get(request_id) for table in self._tables]
        lengths = map(len, computed) if takes_hits else [0] * len(held)
        first = min(
            max(0 if blocks is None else blocks.num_cached, num_hits)
            for blocks, num_hits in zip(held, lengths, strict=True)
        )
        return self.pool.prefix_cache.rows_of(hashes, min(first, stop), stop), first

    def allocate(
        self,
        request_id: str,
        hashes: Sequence[bytes],
        computed: Sequence[Ids],
        numbers: SlotNumbers,
        max_model_len: int,
        must_fit: bool,
        takes_hits: bool,
        caches: bool,
        num_cacheable: int,
    ) -> tuple[BlockList, ...] | bool | None:
        """Slots for one request, whose arguments were checked.

        Args:
            request_id: The request.
            hashes: Its block hashes.
            computed: Its hits, int32 ids per group; looked at only with `takes_hits`.
            numbers: What is asked for it.
            max_model_len: Longest sequence, in tokens.
            must_fit: Refuse unless the whole sequence would fit now.
            takes_hits: Whether there are hits.
            caches: Whether full blocks are cached.
            num_cacheable: Tokens of the request that may be cached.

        Returns:
            The new blocks per group; None if they do not fit; False if the hashes are not of the pool's
            width, and nothing was done.

        Raises:
            ArgumentError: A hit is none.
            BlockStateError: A block to be cached has a hash already. Nothing is changed by either.
        """
        state, store, tables = self.pool.state, self.pool.tables, self._tables
        stop = num_cacheable // self.pool.hash_block_size if caches else 0
        try:
            rows, first_hash = self._rows(request_id, hashes, computed, takes_hits, stop)
        except TypeError:
            refuse_odd_hashes(request_id, hashes[:stop])
            raise
        if rows is None:
            return False
        hits, ends = NO_IDS, self._no_ends
        if takes_hits:
            hits = computed[0] if len(computed) == 1 else np.concatenate(computed)
            ends = np.array([0, *accumulate(map(len, computed))], np.int64)
        fresh = [table for table in tables if request_id not in table]
        blocks_of = [table[request_id] for table in tables]
        num_main = (
            numbers.num_computed_tokens + numbers.num_new_computed_tokens
            + numbers.num_external_computed_tokens + numbers.num_new_tokens
        )  # fmt: skip
        num_tokens = min(num_main + numbers.num_lookahead_tokens, max_model_len)
        segments, changes = len(hits) + 4 * len(tables), 0
        for manager, blocks in zip(self.managers, blocks_of, strict=True):
            needed, num_held = -(-num_tokens // manager.block_size), len(blocks)
            segments += needed + num_held
            if self.index.journal is not None:
                # Room for what is evicted and for what is cached.
                changes += max(0, needed - num_held) + max(0, stop - max(0, blocks.num_cached))
        store.reserve(4 * segments)
        mine = np.array([blocks.row for blocks in blocks_of], np.int64)
        starts = np.zeros((3, len(tables)), np.int64)
        tally = np.zeros(TALLY_WORDS, np.int64)
        given = [
            state.null_id, numbers.num_computed_tokens, numbers.num_new_computed_tokens,
            numbers.num_external_computed_tokens, numbers.num_new_tokens, numbers.num_lookahead_tokens,
            numbers.num_tokens, numbers.num_prompt_tokens, max_model_len, numbers.reserved_blocks,
            first_hash, must_fit, takes_hits, caches, self.pool.enable_caching, are_distinct(hashes),
        ]  # fmt: skip
        status = allocate_one(
            state.records, self.index.table, self.index.log_for(changes), state.marks,
            store.rows, store.ids, store.heads, self.groups, mine, hits, ends, rows, np.array(given, np.int64),
            starts, tally, self.index.seed,
        )  # fmt: skip
        if status != FITS:
            for table in fresh:
                del table[request_id]
            if status == BAD_HITS:
                raise_bad_hit(request_id, int(tally[OFFENDER]), state.num_blocks)
            if status == HASHED_BEFORE:
                raise BlockStateError(f"block {tally[OFFENDER]} has a hash already")
            return None
        self.account(tally.tolist())
        blocks_of[0].quiet_until = int(store.rows[blocks_of[0].row, QUIET])
        result = []
        for manager, blocks, new, external in zip(
            self.managers, blocks_of, *starts[:2].tolist(), strict=True
        ):
            ids = NO_IDS if len(blocks) == external else blocks.ids[external:].copy()
            if len(ids) and manager.records_new_blocks:
                manager.new_ids.note(ids)
            result.append(BlockList(state, ids[new - external :] if new > external else ids))
        return tuple(result)

    def account(self, counted: list[int]) -> None:
        """Take over the tally of compiled code."""
        self.index.count_keys(counted[KEYS])
        self.pool.num_evictions += counted[EVICTED]
