"""Queue-aware: blocks that a waiting request would hit are spared; of the others the least recently used goes first.

vLLM's RFC 48485. What waits is what the last batched match looked up, see `kvgpu.eviction.state.expected`.
"""

from typing import Any

from kvgpu.compiled.jit import leaf
from kvgpu.eviction.state.expected import is_expected
from kvgpu.eviction.state.lanes import NO_BLOCK, last_of, put_first, put_last
from kvgpu.eviction.state.members import first_free, key_of

RECENT, SPARED, NUM_LANES = 1, 2, 3
"""Blocks are spared when it would be their turn: those were all older than what is left in the list."""


@leaf
def enter_queue_aware(pool: Any, block_id: int) -> None:
    """Place a cached block that has become free."""
    put_last(pool.lanes, RECENT, block_id)


@leaf
def return_spared(pool: Any) -> None:
    """Put spared blocks back where they were, before other ones are expected. O(these)."""
    block_id = last_of(pool.lanes, SPARED)
    while block_id != NO_BLOCK:
        put_first(pool.lanes, RECENT, block_id)
        block_id = last_of(pool.lanes, SPARED)


@leaf
def choose_queue_aware(pool: Any) -> int:
    """Return the block to evict next, or NO_BLOCK. O(1), and O(1) for each block that is spared after a match."""
    block_id = first_free(pool, RECENT)
    while block_id != NO_BLOCK and is_expected(pool.expected, key_of(pool, block_id)):
        put_last(pool.lanes, SPARED, block_id)
        block_id = first_free(pool, RECENT)
    return first_free(pool, SPARED) if block_id == NO_BLOCK else block_id
