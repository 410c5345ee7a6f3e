"""`native_calls`: the `Calls` of a manager, which the extension in C serves."""

import logging
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np

from kvgpu.allocation import single_call as call
from kvgpu.allocation.arguments import ARGUMENT_RECORD
from kvgpu.allocation.compiled import FITS, NO_ROOM, REFUSED
from kvgpu.allocation.lookups import PrefixLookups
from kvgpu.allocation.slots import SlotAllocator
from kvgpu.block_tables import store
from kvgpu.block_tables.request_blocks import RequestBlocks
from kvgpu.blocks.block_list import BlockList
from kvgpu.blocks.index_meta import refuse_broken
from kvgpu.blocks.kv_cache_blocks import KVCacheBlocks
from kvgpu.blocks.record import NO_IDS
from kvgpu.compiled.addresses import address_of_code
from kvgpu.compiled.handle import Handle
from kvgpu.compiled.jit import python_of
from kvgpu.compiled.list_items import KNOWN_LAYOUT
from kvgpu.coordinators.base import KVCacheCoordinator
from kvgpu.groups.compiled import EVICTED, KEYS
from kvgpu.groups.full import FullAttentionManager, count_shared_at
from kvgpu.groups.new_ids import PARTS
from kvgpu.index.host import list_match as lookup
from kvgpu.index.host.pool_arrays import NULL_ID
from kvgpu.integers import MOST_TOKENS
from kvgpu.native import Calls

logger = logging.getLogger(__name__)

MOST_FOUND = 1 << 20
"""Ids of a hit, over all groups; longer ones are left to Python."""


LAYOUT = {
    "slots": (
        *(call.POOL, call.STORE, call.GROUPS, call.ARGUMENTS, call.TABLE_IDS),
        *(call.STARTS, call.OUT, call.HITS, call.HIT_ENDS, call.HASHES),
    ),
    "status": (FITS, NO_ROOM, REFUSED, call.SHORT),
    "answer": (KEYS, EVICTED, call.COVERED_UNTIL, call.NUM_TAKEN, call.NUM_NEW, call.PLACES),
    "store": (store.TABLES, store.ID_MEMORY),
    "table": (
        *(store.BEGIN, store.LENGTH, store.LIMIT, store.NUM_CACHED, store.COVERED, store.SERIAL, store.JUNCTION),
        store.TABLE_WORDS,
    ),
    "pool": (NULL_ID,),
    "lookup": (lookup.QUESTION, lookup.FOUND),
    "question": (lookup.LISTED, lookup.NUM_HASHES, lookup.KIND, lookup.WIDTH, lookup.MAX_LENGTH),
    "parts": (PARTS,),
    "most": (MOST_TOKENS,),
    "arguments": (ARGUMENT_RECORD.itemsize,),
}
"""What the extension must have been built with."""


@cache
def agrees() -> bool:
    """Whether the extension was built from sources that agree with Python's; a warning says so if not. O(1)."""
    from kvgpu.native._calls import LAYOUT as built

    if built != LAYOUT:
        logger.warning("kvgpu.native was built from other sources and is not used: install kvgpu again")
    return built == LAYOUT


def native_calls(coordinator: KVCacheCoordinator, slots: SlotAllocator, lookups: PrefixLookups) -> "Calls | None":
    """Make the `Calls` of a manager.

    Args:
        coordinator, slots, lookups: Of the manager.

    Returns:
        None without the extension, or where the state of the manager does not all lie in arrays.

    O(groups).
    """
    arrays = slots.arrays
    if (
        Calls is None
        or arrays is None
        or not agrees()
        or arrays.index.journal is not None
        or (lookups.counts_admissions and not coordinator.block_pool.behaviour.reports_junction)
        or not KNOWN_LAYOUT
        or (coordinator.behaviour.notes_junction and len(coordinator.single_type_managers) > 1)
    ):
        return None
    pool, managers = coordinator.block_pool, coordinator.single_type_managers
    caching = pool.enable_caching
    slots_handle = call.new_handle(arrays.index.handle(), arrays.store.handle.words, arrays.groups)
    plan = coordinator.plan if caching else None  # type: ignore[attr-defined]
    if plan is not None and len(plan.groups) < len(managers):
        return None  # some groups are never looked up
    num_blocks = coordinator.max_model_len // min(manager.block_size for manager in managers) + 2
    room = min(len(managers) * num_blocks, MOST_FOUND)
    plan_words = np.zeros(0, np.int64) if plan is None else plan.words
    asked, found = np.zeros(lookup.QUESTION_WORDS, np.int64), np.empty(room + 2 + len(managers), np.int32)
    question = Handle((arrays.index.handle(), plan_words, asked, found))
    groups = []
    for place, manager in enumerate(managers):
        shares = type(manager).get_num_common_prefix_blocks is FullAttentionManager.get_num_common_prefix_blocks
        line = place if plan is None else plan.groups.index(place)
        query = 0 if plan is None else next(q for q, part in enumerate(plan.lines) if part.start <= line < part.stop)
        new_ids = manager.new_ids if manager.records_new_blocks else None
        groups.append((manager.req_to_blocks, new_ids, caching and shares, line, query))
    return Calls(
        turn=slots.turn,
        state=pool.state,
        extras=pool.cached_block_hash_to_block.extras,
        foreign=pool.state.foreign,
        events=pool.events,
        store=arrays.store,
        index=arrays.index,
        allocator=pool.allocator,
        lookups=lookups,
        empty=lookups.empty,
        no_ids=NO_IDS,
        refuse=partial(python_of(refuse_broken), pool.state.meta),
        request_blocks=RequestBlocks,
        block_list=BlockList,
        cache_blocks=KVCacheBlocks,
        allocate=_maker_of(call.allocate_one, 1),
        free=_maker_of(call.free_one, 1),
        match=_maker_of(lookup.match_list, 1),
        shared=_maker_of(count_shared_at, 4),
        slots=slots_handle.address,
        question=question.address,
        room_for_hits=room,
        max_model_len=coordinator.max_model_len,
        hash_block_size=pool.hash_block_size,
        reach=0 if plan is None else plan.reach,
        caching=caching,
        clamps=pool.behaviour.clamps_to_hashes,
        masks=arrays.masks,
        reports=pool.behaviour.reports_junction,
        num_queries=0 if plan is None else len(plan.queries),
        groups=tuple(groups),
        last_hand_out=pool.holders.last_hand_out.ctypes.data,
        owners=(slots_handle, question, pool.holders.last_hand_out),
    )


def _maker_of(function: Any, num_words: int) -> Callable[[], int]:
    return lambda: address_of_code(function, num_words)
