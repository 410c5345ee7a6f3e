"""Cost: what costs less to compute again goes first, and ages as what is evicted says (GreedyDual).

A block costs what its tokens cost in a model without attention, and as much again for each `ATTENTION` blocks before
it, to which they attend. N. Young: On-Line File Caching, SODA 1998; P. Cao, S. Irani: Cost-Aware WWW Proxy Caching
Algorithms, USITS 1997.
"""

from typing import Any

from kvgpu.compiled.jit import leaf
from kvgpu.eviction.state.arrays import LEARNED
from kvgpu.eviction.state.lanes import NO_BLOCK, put_last
from kvgpu.eviction.state.members import first_free

ATTENTION = 2048
"""Blocks: attention to so many costs what the rest of a model does. 32,768 tokens, 16 a block, for a model of 8 billion
weights in 32 layers of width 4096."""
SHARES = 8
"""Parts of the cost of a first block that are told apart."""
RANKS = 128
"""Ranks of blocks in the pool are less than so many apart, so each has a list of its own."""
NUM_LANES = 1 + RANKS


@leaf
def note_cost(pool: Any, block_id: int, place: int) -> None:
    """Note what a block costs that so many blocks of its request precede."""
    pool.notes[block_id] = min(SHARES + place * SHARES // ATTENTION, RANKS - 1)


@leaf
def _lane_of(rank: int) -> int:
    return int(1 + rank % RANKS)


@leaf
def enter_cost(pool: Any, block_id: int) -> None:
    """Place a cached block that has become free."""
    put_last(pool.lanes, _lane_of(pool.numbers[LEARNED] + pool.notes[block_id]), block_id)


@leaf
def choose_cost(pool: Any) -> int:
    """Return the block to evict next, or NO_BLOCK. O(RANKS) at most."""
    age = pool.numbers[LEARNED]
    for rank in range(age, age + RANKS):
        block_id = first_free(pool, _lane_of(rank))
        if block_id != NO_BLOCK:
            pool.numbers[LEARNED] = rank
            return block_id
    return NO_BLOCK
