"""Segmented LRU: a block that was hit is protected from those that were not.

R. Karedla, J. S. Love, B. G. Wherry: Caching Strategies to Improve Disk System Performance, IEEE Computer 27 (3), 1994.
"""

from typing import Any

from kvgpu.compiled.jit import leaf
from kvgpu.eviction.state.arrays import GOAL
from kvgpu.eviction.state.lanes import NO_BLOCK, first_of, put_last
from kvgpu.eviction.state.members import first_free, is_new

PROBATION, PROTECTED, NUM_LANES = 1, 2, 3
PROTECTED_SHARE = 0.8
"""Of the blocks of the pool, at most so many are protected."""


@leaf
def enter_slru(pool: Any, block_id: int) -> None:
    """Place a cached block that has become free."""
    lanes = pool.lanes
    if is_new(pool, block_id):
        put_last(lanes, PROBATION, block_id)
        return
    put_last(lanes, PROTECTED, block_id)
    while lanes.counts[PROTECTED] > pool.numbers[GOAL]:
        put_last(lanes, PROBATION, first_of(lanes, PROTECTED))


@leaf
def choose_slru(pool: Any) -> int:
    """Return the block to evict next, or NO_BLOCK."""
    block_id = first_free(pool, PROBATION)
    return first_free(pool, PROTECTED) if block_id == NO_BLOCK else block_id
