"""Tail first: blocks far from the beginning of their prompts go first, since all that follows a block needs it.

Of blocks about as far, by powers of two, the least recently used goes first. vLLM has the same hint in the order in
which a request gives back its blocks, the last one first.
"""

from typing import Any

from kvgpu.compiled.jit import leaf
from kvgpu.eviction.state.arrays import LEARNED
from kvgpu.eviction.state.lanes import NO_BLOCK, node_of, put_last
from kvgpu.eviction.state.members import first_free

CLASSES = 24
NUM_LANES = 1 + CLASSES
"""LEARNED is the highest list that has members, or one above it."""


@leaf
def note_place(pool: Any, block_id: int, place: int) -> None:
    """Note how many blocks precede a block that is cached, as a power of two."""
    distance = 0
    while place >> distance > 0 and distance < CLASSES - 1:
        distance += 1
    node_of(pool.lanes, block_id).notes = distance


@leaf
def enter_tail_first(pool: Any, block_id: int) -> None:
    """Place a cached block that has become free."""
    lane = 1 + node_of(pool.lanes, block_id).notes
    put_last(pool.lanes, lane, block_id)
    pool.numbers[LEARNED] = max(pool.numbers[LEARNED], lane)


@leaf
def choose_tail_first(pool: Any) -> int:
    """Return the block to evict next, or NO_BLOCK. O(CLASSES) at most."""
    for lane in range(pool.numbers[LEARNED], 0, -1):
        block_id = first_free(pool, lane)
        if block_id != NO_BLOCK:
            pool.numbers[LEARNED] = lane
            return block_id
    return NO_BLOCK
