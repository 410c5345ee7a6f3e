"""Adaptive replacement: recency and frequency share the pool as hits on what was evicted say.

N. Megiddo, D. S. Modha: ARC: A Self-Tuning, Low Overhead Replacement Cache, FAST 2003. A block is taken before it is
known what it will hold, so the share changes when a block becomes free for the first time, after the eviction that
made room for it.
"""

from typing import Any

from kvgpu.compiled.jit import leaf
from kvgpu.eviction.state.arrays import LEARNED, NUM_BLOCKS
from kvgpu.eviction.state.ghosts import (
    COUNTS,
    FIRST_LIST,
    NONE,
    SECOND_LIST,
    find_ghost,
    forget_ghost,
    forget_oldest,
    list_of,
)
from kvgpu.eviction.state.lanes import NO_BLOCK, node_of, put_last
from kvgpu.eviction.state.members import first_free, is_cached, is_new, key_of, remember_evicted

ONCE, OFTEN, NUM_LANES = 1, 2, 3
"""Blocks that were used once since they were cached, and others. LEARNED is how many of the first shall be kept."""


@leaf
def _learn(pool: Any, ghost: int) -> None:
    """Give more blocks to the kind of those that were asked for after they had been evicted."""
    first, second = pool.ghosts.words[COUNTS + FIRST_LIST], pool.ghosts.words[COUNTS + SECOND_LIST]
    share = pool.numbers[LEARNED]
    if list_of(pool.ghosts, ghost) == FIRST_LIST:
        share = min(pool.numbers[NUM_BLOCKS], share + max(1, second // first))
    else:
        share = max(0, share - max(1, first // second))
    pool.numbers[LEARNED] = share


@leaf
def enter_arc(pool: Any, block_id: int) -> None:
    """Place a cached block that has become free."""
    lane = ONCE if is_new(pool, block_id) else OFTEN
    if node_of(pool.lanes, block_id).notes == 0:
        key = key_of(pool, block_id)
        ghost = find_ghost(pool.ghosts, key)
        if ghost != NONE:
            _learn(pool, ghost)
            forget_ghost(pool.ghosts, key)
            lane = OFTEN
    put_last(pool.lanes, lane, block_id)


@leaf
def choose_arc(pool: Any) -> int:
    """Return the block to evict next, or NO_BLOCK."""
    counts = pool.lanes.counts
    lane = ONCE if counts[ONCE] > pool.numbers[LEARNED] else OFTEN
    block_id = first_free(pool, lane)
    if block_id == NO_BLOCK:
        lane = ONCE + OFTEN - lane
        block_id = first_free(pool, lane)
    if block_id != NO_BLOCK and is_cached(pool, block_id):
        remember_evicted(pool, FIRST_LIST if lane == ONCE else SECOND_LIST, block_id)
        if counts[ONCE] + pool.ghosts.words[COUNTS + FIRST_LIST] > pool.numbers[NUM_BLOCKS] + 1:
            forget_oldest(pool.ghosts, FIRST_LIST)
    return block_id
