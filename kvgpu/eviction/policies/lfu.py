"""Least frequently used with dynamic ageing: what is evicted lends its rank to all that comes later.

The rank of a block is how often it was used since it was cached, and the rank of the last evicted block when it became
free. M. Arlitt et al.: Evaluating Content Management Techniques for Web Proxy Caches, SIGMETRICS PER 27 (4), 2000.
"""

from typing import Any

from kvgpu.compiled.jit import leaf
from kvgpu.eviction.state.arrays import LEARNED, MOST_HITS
from kvgpu.eviction.state.lanes import NO_BLOCK, put_last
from kvgpu.eviction.state.members import first_free

RANKS = MOST_HITS + 1
"""Ranks of blocks in the pool are less than so many apart, so each has a list of its own."""
NUM_LANES = 1 + RANKS


@leaf
def _lane_of(rank: int) -> int:
    return int(1 + rank % RANKS)


@leaf
def enter_lfu(pool: Any, block_id: int) -> None:
    """Place a cached block that has become free."""
    used = min(pool.hits[block_id] + 1, MOST_HITS)
    put_last(pool.lanes, _lane_of(pool.numbers[LEARNED] + used), block_id)


@leaf
def choose_lfu(pool: Any) -> int:
    """Return the block to evict next, or NO_BLOCK. O(RANKS) at most."""
    age = pool.numbers[LEARNED]
    for rank in range(age, age + RANKS):
        block_id = first_free(pool, _lane_of(rank))
        if block_id != NO_BLOCK:
            pool.numbers[LEARNED] = rank
            return block_id
    return NO_BLOCK
