"""`ArrayAllocator`: compiled allocation for the managers whose state lies in arrays."""

from struct import Struct
from struct import error as StructError
from typing import Any, NamedTuple

import numpy as np

from kvgpu.allocation.arguments import ARGUMENT_RECORD
from kvgpu.allocation.compiled import FITS, REFUSED, START_WORDS
from kvgpu.allocation.single_call import CHANGES, COVERED_UNTIL, PLACES, SEGMENTS, SHORT, allocate_one, free_one
from kvgpu.blocks.block_list import BlockList
from kvgpu.blocks.kv_cache_blocks import KVCacheBlocks
from kvgpu.blocks.record import NO_IDS, Ids
from kvgpu.compiled.jit import python_of
from kvgpu.coordinators.base import KVCacheCoordinator
from kvgpu.groups.chunked_local import ChunkedLocalAttentionManager
from kvgpu.groups.compiled import EVICTED, KEYS
from kvgpu.groups.full import FullAttentionManager
from kvgpu.groups.sink import SinkFullAttentionManager
from kvgpu.groups.sliding_window import SlidingWindowManager
from kvgpu.hashing.block_hashes import BlockHashes, keys_if_of_width
from kvgpu.hashing.functions import HASH_WIDTHS
from kvgpu.index.base import Keys
from kvgpu.index.host.index import HostIndex
from kvgpu.layout import KEY_WORDS
from kvgpu.rules.allocation import tokens_to_cache

COMPILED = (FullAttentionManager, SinkFullAttentionManager, SlidingWindowManager, ChunkedLocalAttentionManager)
"""Kinds of groups whose rules compiled code knows; exactly these, since a subclass may differ."""

PLAIN_IDS: tuple[type, ...] = (str, int)
"""Kinds of request ids that are looked up without code of others, which might call the manager in the middle."""

NO_KEYS: Keys = np.empty((0, KEY_WORDS), np.int64)

_tokens_to_cache = python_of(tokens_to_cache)
_pack = Struct(f"{len(ARGUMENT_RECORD.names or ())}q").pack_into


class SlotsCall(NamedTuple):
    """The arguments of `KVCacheManager.allocate_slots`, except the request: as they came, nothing is checked."""

    num_new: int
    num_hit_tokens: int
    computed: KVCacheBlocks | None
    num_lookahead: int
    num_external: int
    delays: bool
    num_encoder: int
    must_fit: bool
    reserved_blocks: int


class ArrayAllocator:
    """`allocate_slots` and `free` in one compiled call each.

    What is odd about a call it leaves to `kvgpu.allocation.slots`, which serves it group by group or says what is
    wrong with it: so the usual call is looked at by compiled code only.

    Args:
        coordinator: Whose groups are served; see `serves`.

    Attributes:
        groups: GROUP_RECORD [groups], see `kvgpu.rules.allocation`.
        arguments: ARGUMENT_RECORD [1], those of the last call that was packed.
    """

    def __init__(self, coordinator: KVCacheCoordinator) -> None:
        self.managers = coordinator.single_type_managers
        self.pool = coordinator.block_pool
        self.store = self.pool.block_tables
        index = self.pool.index
        assert isinstance(index, HostIndex)
        self.index = index
        self.groups = coordinator.group_records
        self._tables = [manager.req_to_blocks for manager in self.managers]
        self._max_model_len = coordinator.max_model_len
        # Written anew by every call: to make an array takes longer than to fill it.
        num_groups = len(self.managers)
        self.arguments: Any = np.zeros(1, ARGUMENT_RECORD)
        self._table_ids = np.zeros(num_groups, np.int64)
        self._no_ends = np.zeros(num_groups + 1, np.int64)
        self._ends = np.zeros(num_groups + 1, np.int64)
        self._starts = np.zeros((START_WORDS, num_groups), np.int64)
        self._out = np.zeros(PLACES + 3 * num_groups, np.int64)

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
            and pool.allocator.metrics_collector is None
            and all(type(manager) in COMPILED for manager in managers)
            and (not pool.enable_caching or all(manager.block_size == pool.hash_block_size for manager in managers))
        )

    def ready(self) -> bool:
        """False while events are wanted, or keys, blocks or lists live outside the arrays. O(1)."""
        pool = self.pool
        return not (
            pool.cached_block_hash_to_block.extras or pool.state.foreign or self.store.mirrors or pool.events.enabled
        )

    def _keys(self, request_id: str, hashes: list[bytes], ends: Keys, stop: int) -> tuple[Keys, int, int]:
        """Key words of those of a list's first `stop` hashes that may be cached, the place of the first, and their
        width.

        Raises:
            TypeError, ValueError: The records cannot hold them.
        """
        width = self.pool.state.width or len(hashes[0])
        first = stop
        for table, num_hits in zip(self._tables, np.diff(ends).tolist(), strict=True):
            blocks = table.get(request_id)
            first = min(first, max(0 if blocks is None else blocks.num_cached, num_hits))
        keys = keys_if_of_width(hashes[first:stop], width) if width in HASH_WIDTHS else None
        if keys is None:
            raise ValueError("hashes of another width")
        self.index.settle_for_good()
        return keys, first, width

    def _hits(self, computed: Any) -> Ids:
        """Ids of computed blocks of all groups, one group after the other; writes where those of each end.

        Raises:
            TypeError, ValueError: They are not all lists of this pool.
        """
        state, ends = self.pool.state, self._ends
        end, listed = 0, []
        for place, (blocks, _) in enumerate(zip(computed.blocks, self._tables, strict=True)):
            if blocks.__class__ is not BlockList or blocks.state is not state:
                raise TypeError("blocks made by hand")
            ids = blocks.ids
            if ids.dtype != NO_IDS.dtype or not ids.flags.carray:
                raise TypeError("not as compiled code takes them")
            listed.append(ids)
            end += len(ids)
            ends[place + 1] = end
        return listed[0] if len(listed) == 1 else np.concatenate(listed)

    def allocate(self, request: Any, request_id: Any, given: tuple[Any, ...]) -> tuple[int, tuple[BlockList, ...]]:
        """Give one request its slots; neither it nor `given`, the fields of a `SlotsCall`, has been checked.

        Returns:
            FITS, and the new blocks per group, or () if there are none at all; NO_ROOM and (); or REFUSED and (), with
            nothing changed, if the call is not a usual one.
        """
        if type(request_id) not in PLAIN_IDS or not self.ready():
            return REFUSED, ()
        (
            num_new,
            num_hit_tokens,
            computed,
            num_lookahead,
            num_external,
            delays,
            num_encoder,
            must_fit,
            reserved_blocks,
        ) = given
        pool, store, tables, out = self.pool, self.store, self._tables, self._out
        state, caching = pool.state, pool.enable_caching
        try:
            hashes = request.block_hashes
            num_computed, num_tokens = request.num_computed_tokens, request.num_tokens
            num_prompt = getattr(request, "num_prompt_tokens", None)
            hits, ends = NO_IDS, self._no_ends
            if computed is not None:
                hits = self._hits(computed)
                if len(hits):
                    ends = self._ends
            caches = caching and not delays
            keys, first, width, distinct = NO_KEYS, 0, state.width, False
            num_hashes = len(hashes)
            if hashes.__class__ is BlockHashes:
                distinct = hashes.linked
                if caches and num_hashes:
                    keys, width = hashes.storage, hashes.width
                    if not distinct:
                        self.index.settle_for_good()
            elif hashes.__class__ is not list:
                return REFUSED, ()
            elif caches:
                num_main = num_computed + num_hit_tokens + num_external + num_new
                stop = _tokens_to_cache(num_main, num_tokens) // pool.hash_block_size
                if stop > 0:
                    keys, first, width = self._keys(request_id, hashes, ends, stop)
            adopts = state.width is None and bool(width)
            if not adopts and width != state.width:
                return REFUSED, ()
            # In the order of ARGUMENT_RECORD.
            _pack(
                self.arguments,
                0,
                num_computed,
                num_hit_tokens,
                num_external,
                num_new,
                num_lookahead,
                num_tokens,
                -1 if num_prompt is None else num_prompt,
                self._max_model_len,
                reserved_blocks,
                first,
                must_fit,
                computed is not None,
                caches,
                caching,
                num_encoder,
                pool.hash_block_size,
                num_hashes,
                distinct,
            )
        except (AttributeError, TypeError, ValueError, OverflowError, StructError, IndexError):
            return REFUSED, ()
        if adopts:
            # Before the first hash lies in a record, which cannot be read without it.
            state.width = width
        fresh = [table for table in tables if request_id not in table]
        held = [table[request_id] for table in tables]
        table_ids = self._table_ids
        for place, blocks in enumerate(held):
            table_ids[place] = blocks.table_id
        call, pool_arrays = (table_ids, hits, ends, keys), self.index.arrays()
        while True:
            status = allocate_one(pool_arrays, store.arrays(), self.groups, call, self.arguments, self._starts, out)
            if status != SHORT:
                break
            store.reserve(int(out[SEGMENTS]))
            pool_arrays = self.index.arrays(int(out[CHANGES]))
        if status != FITS:
            for table in fresh:
                del table[request_id]
            if adopts:
                state.width = None
            return status, ()
        answer = out.tolist()
        self.account(answer[KEYS], answer[EVICTED])
        held[0].covered_until = answer[COVERED_UNTIL]
        result, any_new = [], False
        places = iter(answer[PLACES:])
        for manager, external, new, end in zip(self.managers, places, places, places, strict=True):
            ids = NO_IDS
            if end > external:
                if manager.records_new_blocks:
                    ids = store.ids[external:end].copy()
                    manager.new_ids.note(ids)
                    ids = ids[new - external :] if new > external else ids
                else:
                    ids = store.ids[new:end].copy()
                any_new = any_new or end > new
            result.append(BlockList(state, ids))
        return FITS, tuple(result) if any_new else ()

    def free(self, request_id: Any) -> bool:
        """Give back all blocks of a request. O(blocks).

        Returns:
            False, with nothing changed, unless all groups know the request and its blocks lie in the arrays.
        """
        if type(request_id) not in PLAIN_IDS or not self.ready():
            return False
        tables, store, table_ids = self._tables, self.store, self._table_ids
        for table in tables:
            if request_id not in table:
                return False
        for place, table in enumerate(tables):
            table_ids[place] = table.leave(request_id)
        free_one(self.pool.state.records, self.pool.state.null_id, store.arrays(), self.groups, table_ids)
        store.note_closed(table_ids.tolist())
        return True

    def account(self, new_keys: int, num_evicted: int) -> None:
        """Count keys that compiled code added to the index (or, below 0, took out), and blocks that it evicted."""
        self.index.count_keys(new_keys)
        self.pool.allocator.num_evictions += num_evicted
