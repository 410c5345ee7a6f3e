"""Ranks with ageing: the lowest goes first, and what is evicted lends its rank to all that comes later.

The rank of a block is what it is worth, and the rank of the last evicted block when it became free, which is LEARNED.
"""

from typing import Any

from kvgpu.compiled.jit import leaf
from kvgpu.eviction.state.arrays import LEARNED
from kvgpu.eviction.state.lanes import MOST_HITS, NO_BLOCK, put_last
from kvgpu.eviction.state.members import first_free

RANKS = MOST_HITS + 1
"""Ranks of blocks in the pool are less than so many apart, so each has a list of its own."""
NUM_LANES = 1 + RANKS


@leaf
def _lane_of(rank: int) -> int:
    return int(1 + rank % RANKS)


@leaf
def enter_by_rank(pool: Any, block_id: int, worth: int) -> None:
    """Place a cached block that has become free; it is worth less than RANKS."""
    put_last(pool.lanes, _lane_of(pool.numbers[LEARNED] + worth), block_id)


@leaf
def choose_by_rank(pool: Any) -> int:
    """Return the block to evict next, or NO_BLOCK. O(RANKS) at most."""
    age = pool.numbers[LEARNED]
    for rank in range(age, age + RANKS):
        block_id = first_free(pool, _lane_of(rank))
        if block_id != NO_BLOCK:
            pool.numbers[LEARNED] = rank
            return block_id
    return NO_BLOCK
