"""Least recently used first, beside hints of requests: without them the queue of free blocks does it alone."""

from typing import Any

from kvgpu.compiled.jit import leaf
from kvgpu.eviction.state.lanes import put_last
from kvgpu.eviction.state.members import first_free

RECENT, NUM_LANES = 1, 2


@leaf
def enter_recency(pool: Any, block_id: int) -> None:
    """Place a cached block that has become free."""
    put_last(pool.lanes, RECENT, block_id)


@leaf
def choose_recency(pool: Any) -> int:
    """Return the block to evict next, or NO_BLOCK."""
    return first_free(pool, RECENT)
