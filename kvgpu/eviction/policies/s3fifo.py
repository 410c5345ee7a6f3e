"""S3-FIFO: a small queue keeps what is used once away from the main one; hits move nothing.

J. Yang et al.: FIFO Queues are All You Need for Cache Eviction, SOSP 2023.
"""

from typing import Any

from kvgpu.compiled.jit import leaf
from kvgpu.eviction.state.arrays import GOAL
from kvgpu.eviction.state.ghosts import FIRST_LIST, NONE, find_ghost, forget_ghost
from kvgpu.eviction.state.lanes import NO_BLOCK, drop, first_of, node_of, put_last
from kvgpu.eviction.state.members import is_cached, is_free, key_of, remember_evicted

SMALL, MAIN, NUM_LANES = 1, 2, 3
SMALL_SHARE = 0.1
"""Of the blocks of the pool, the small queue holds so many."""
MOST_COUNTED = 3
"""Hits of a block that count, at most."""


@leaf
def enter_s3fifo(pool: Any, block_id: int) -> None:
    """Place a cached block that has become free; a note is the queue that it belongs to."""
    node = node_of(pool.lanes, block_id)
    if node.lane in (SMALL, MAIN):
        return
    lane = node.notes
    if lane == 0:
        key = key_of(pool, block_id)
        lane = SMALL if find_ghost(pool.ghosts, key) == NONE else MAIN
        if lane == MAIN:
            forget_ghost(pool.ghosts, key)
    _queue(pool, lane, block_id)


@leaf
def _queue(pool: Any, lane: int, block_id: int) -> None:
    put_last(pool.lanes, lane, block_id)
    node_of(pool.lanes, block_id).notes = lane


@leaf
def choose_s3fifo(pool: Any) -> int:
    """Return the block to evict next, or NO_BLOCK. Amortised O(1): a hit pays for at most three more looks."""
    counts = pool.lanes.counts
    while True:
        lane = SMALL if counts[MAIN] == 0 or counts[SMALL] > pool.numbers[GOAL] else MAIN
        block_id = first_of(pool.lanes, lane)
        if block_id == NO_BLOCK:
            return NO_BLOCK
        node = node_of(pool.lanes, block_id)
        if not is_free(pool, block_id):
            drop(pool.lanes, block_id)
        elif lane == SMALL and node.hits > 1:
            node.hits = 0
            _queue(pool, MAIN, block_id)
        elif lane == MAIN and node.hits > 0:
            node.hits = min(node.hits, MOST_COUNTED) - 1
            _queue(pool, MAIN, block_id)
        else:
            if lane == SMALL and is_cached(pool, block_id):
                remember_evicted(pool, FIRST_LIST, block_id)
            return block_id
