"""`ArrayAllocator`: compiled allocation for the managers whose state lies in arrays."""

from functools import partial
from struct import Struct
from struct import error as StructError
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from kvgpu.allocation.arguments import ARGUMENT_RECORD
from kvgpu.allocation.compiled import FITS, REFUSED
from kvgpu.allocation.single_call import (
    ARGUMENTS,
    CHANGES,
    COVERED_UNTIL,
    DISAGREES,
    HASHES,
    HIT_ENDS,
    HITS,
    NO_KEYS,
    NUM_NEW,
    NUM_TAKEN,
    OUT,
    PLACES,
    SEGMENTS,
    SHORT,
    TABLE_IDS,
    allocate_one,
    free_one,
    new_handle,
)
from kvgpu.block_tables.by_request import PLAIN_NAMES
from kvgpu.block_tables.request_blocks import RequestBlocks
from kvgpu.blocks.block_list import BlockList
from kvgpu.blocks.index_meta import refuse_broken
from kvgpu.blocks.record import NO_IDS, Ids
from kvgpu.compiled.jit import python_of
from kvgpu.compiled.list_items import KNOWN_LAYOUT
from kvgpu.coordinators.base import KVCacheCoordinator
from kvgpu.groups.base import SingleTypeKVCacheManager
from kvgpu.groups.chunked_local import ChunkedLocalAttentionManager
from kvgpu.groups.compiled import EVICTED, KEYS
from kvgpu.groups.full import FullAttentionManager
from kvgpu.groups.sink import SinkFullAttentionManager
from kvgpu.groups.sliding_window import SlidingWindowManager
from kvgpu.hashing.block_hashes import BlockHashes
from kvgpu.hashing.functions import HASH_WIDTHS
from kvgpu.index.base import Keys
from kvgpu.index.host.index import HostIndex
from kvgpu.integers import MOST_TOKENS

COMPILED = (FullAttentionManager, SinkFullAttentionManager, SlidingWindowManager, ChunkedLocalAttentionManager)
"""Kinds of groups whose rules compiled code knows; exactly these, since a subclass may differ."""

_BYTES = id(bytes)
_refuse_broken = python_of(refuse_broken)
_pack = Struct(f"{len(ARGUMENT_RECORD.names or ())}q").pack_into


class ArrayAllocator:
    """`allocate_slots` and `free` in one compiled call each.

    What is odd about a call it leaves to `kvgpu.allocation.slots`, which serves it group by group or says what is
    wrong with it: so the usual call is looked at by compiled code only.

    Args:
        coordinator: Whose groups are served; see `serves`.

    Attributes:
        groups: GROUP_RECORD [groups], see `kvgpu.rules.allocation`.
        arguments: ARGUMENT_RECORD [1], those of the last call that was packed.
        masks: Whether the junction of a request decides what is cached.
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
        self._clamps = self.pool.behaviour.clamps_to_hashes
        self.masks = self.pool.behaviour.keeps_boundaries and not self.groups["keep_all"].all()
        self._ends = np.zeros(len(self.managers) + 1, np.int64)
        self._handle = new_handle(index.handle(), self.store.handle.words, self.groups)
        self.arguments: Any = self._handle.array(ARGUMENTS)
        self._table_ids, self._no_ends = self._handle.array(TABLE_IDS), self._handle.array(HIT_ENDS)
        self._given_now: tuple[Any, Any] = (NO_IDS, NO_KEYS)
        out = self._handle.array(OUT)
        self._places = list(zip(self.managers, range(PLACES, len(out), 3), strict=True))
        self._read = partial(Struct(f"{len(out)}q").unpack_from, cast(Any, out))

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

    def _point(self, hits: Ids, ends: npt.NDArray[np.int64], keys: Keys) -> None:
        """Tell compiled code where hits and hashes are."""
        (hits_now, keys_now), self._given_now = self._given_now, (None, None)
        if hits is not hits_now:
            self._handle.point(HITS, hits)
            self._handle.point(HIT_ENDS, ends)
        if keys is not keys_now:
            self._handle.point(HASHES, keys)
        self._given_now = hits, keys

    def allocate(self, request: Any, request_id: Any, given: tuple[Any, ...]) -> tuple[int, tuple[BlockList, ...]]:
        """Give one request its slots; neither it nor `given`, the fields of a `SlotsCall`, has been checked.

        Returns:
            FITS, and the new blocks per group, or () if there are none at all; NO_ROOM and (); or REFUSED and (), with
            nothing changed, if the call is not a usual one.
        """
        num_new, num_hit_tokens, computed, num_lookahead, num_external, delays, num_encoder, *rest = given
        must_fit, reserved, num_in_flight, headroom, unzeroed = rest
        if unzeroed or type(request_id) not in PLAIN_NAMES or not self.ready():
            return REFUSED, ()
        pool, store, tables, state = self.pool, self.store, self._tables, self.pool.state
        caching = pool.enable_caching
        known: list[Any] = [dict.get(table, request_id) for table in tables]
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
            keys, listed, width, distinct = NO_KEYS, 0, state.width, False
            num_hashes = len(hashes)
            if hashes.__class__ is BlockHashes:
                distinct = hashes.linked
                if caches and num_hashes:
                    keys, width = hashes.storage, hashes.width
                    if not distinct:
                        self.index.settle_for_good()
            elif hashes.__class__ is not list:
                return REFUSED, ()
            elif caches and num_hashes:
                if not KNOWN_LAYOUT:
                    return REFUSED, ()
                listed = id(hashes)
                if width is None:
                    width = len(hashes[0])
                    if width not in HASH_WIDTHS:
                        return REFUSED, ()
                self.index.settle_for_good()
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
                getattr(request, "shared_prefix_boundary", 0) if self.masks else 0,
                num_hashes * pool.hash_block_size if self._clamps else MOST_TOKENS,
                num_in_flight,
                self._max_model_len,
                reserved,
                headroom,
                0,
                must_fit,
                computed is not None,
                caches,
                caching,
                num_encoder,
                pool.hash_block_size,
                num_hashes,
                distinct,
                self._clamps,
                listed,
                _BYTES,
                width or 0,
            )
        except (AttributeError, TypeError, ValueError, OverflowError, StructError, IndexError):
            return REFUSED, ()
        if adopts:
            # Before the first hash lies in a record, which cannot be read without it.
            state.width = width
        held, table_ids = known, self._table_ids
        for place, blocks in enumerate(known):
            if blocks.__class__ is not RequestBlocks:
                held = [table[request_id] for table in tables]
                for again, opened in enumerate(held):
                    table_ids[again] = opened.table_id
                break
            table_ids[place] = blocks.table_id
        self._point(hits, ends, keys)
        self.index.handle()
        while True:
            status = allocate_one(self._handle.address)
            if status != SHORT:
                break
            answer = self._read()
            store.reserve(answer[SEGMENTS])
            self.index.handle(answer[CHANGES])
        if status == DISAGREES:
            _refuse_broken(pool.state.meta)
        if status != FITS:
            for blocks, table in zip(known, tables, strict=True):
                if blocks is None:
                    del table[request_id]
            if adopts:
                state.width = None
            return status, ()
        answer = self._read()
        if answer[KEYS] or answer[EVICTED]:
            self.account(answer[KEYS], answer[EVICTED])
        held[0].covered_until = answer[COVERED_UNTIL]
        if not answer[NUM_TAKEN]:
            return FITS, ()
        lists = [self._given(manager, *answer[place : place + 3]) for manager, place in self._places]
        return FITS, tuple(lists) if answer[NUM_NEW] else ()

    def _given(self, manager: SingleTypeKVCacheManager, external: int, new: int, end: int) -> BlockList:
        """Blocks that a request got in one group, of which the store has ids [new, end) and, before them, those for
        external tokens."""
        if end == external:
            return BlockList(self.pool.state)
        ids = self.store.ids[external:end].copy()
        if manager.records_new_blocks:
            manager.new_ids.note(ids)
        return BlockList(self.pool.state, ids if new == external else ids[new - external :])

    def free(self, request_id: Any) -> bool:
        """Give back all blocks of a request. O(blocks).

        Returns:
            False, with nothing changed, unless all groups know the request and its blocks lie in the arrays.
        """
        if type(request_id) not in PLAIN_NAMES or not self.ready():
            return False
        tables, table_ids = self._tables, self._table_ids
        for table in tables:
            if request_id not in table:
                return False
        for place, table in enumerate(tables):
            table_ids[place] = table.leave(request_id)
        self.index.handle()
        free_one(self._handle.address)
        self.store.note_closed(table_ids.tolist())
        return True

    def account(self, new_keys: int, num_evicted: int) -> None:
        """Count keys that compiled code added to the index (or, below 0, took out), and blocks that it evicted."""
        self.index.count_keys(new_keys)
        self.pool.allocator.num_evictions += num_evicted
