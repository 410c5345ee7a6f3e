"""`native_calls`: the `Calls` of a manager, which the extension in C serves."""

from collections.abc import Callable
from typing import Any

import numpy as np

from kvgpu.allocation import single_call
from kvgpu.allocation.lookups import PrefixLookups
from kvgpu.allocation.slots import SlotAllocator
from kvgpu.block_tables.request_blocks import RequestBlocks
from kvgpu.blocks.block_list import BlockList
from kvgpu.blocks.kv_cache_blocks import KVCacheBlocks
from kvgpu.blocks.record import NO_IDS
from kvgpu.compiled.addresses import address_of_code
from kvgpu.compiled.handle import Handle
from kvgpu.compiled.list_items import KNOWN_LAYOUT
from kvgpu.coordinators.base import KVCacheCoordinator
from kvgpu.groups.full import FullAttentionManager, count_shared_at
from kvgpu.index.host.list_match import QUESTION_WORDS, match_list
from kvgpu.native import Calls

MOST_FOUND = 1 << 20
"""Ids of a hit, over all groups; longer ones are left to Python."""


def native_calls(coordinator: KVCacheCoordinator, slots: SlotAllocator, lookups: PrefixLookups) -> Calls | None:
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
        or arrays.index.journal is not None
        or lookups.counts_admissions
        or not KNOWN_LAYOUT
    ):
        return None
    pool, managers = coordinator.block_pool, coordinator.single_type_managers
    caching = pool.enable_caching
    call = arrays.new_handle()
    plan = coordinator.plan if caching else None  # type: ignore[attr-defined]
    num_blocks = coordinator.max_model_len // min(manager.block_size for manager in managers) + 2
    room = min(len(managers) * num_blocks, MOST_FOUND)
    plan_words = np.zeros(0, np.int64) if plan is None else plan.words
    asked, found = np.zeros(QUESTION_WORDS, np.int64), np.empty(room + 1 + len(managers), np.int32)
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
        request_blocks=RequestBlocks,
        block_list=BlockList,
        cache_blocks=KVCacheBlocks,
        allocate=_maker_of(single_call.allocate_one, 1),
        free=_maker_of(single_call.free_one, 1),
        match=_maker_of(match_list, 1),
        shared=_maker_of(count_shared_at, 4),
        slots=call.address,
        question=question.address,
        room_for_hits=room,
        max_model_len=coordinator.max_model_len,
        hash_block_size=pool.hash_block_size,
        caching=caching,
        num_queries=0 if plan is None else len(plan.queries),
        groups=tuple(groups),
        owners=(call, question),
    )


def _maker_of(function: Any, num_words: int) -> Callable[[], int]:
    return lambda: address_of_code(function, num_words)
