"""Cost: what costs less to compute again goes first, and ages as what is evicted says (GreedyDual).

A block costs what its tokens cost in a model without attention, and as much again for each `ATTENTION` blocks before
it, to which they attend. N. Young: On-Line File Caching, SODA 1998; P. Cao, S. Irani: Cost-Aware WWW Proxy Caching
Algorithms, USITS 1997.
"""

from typing import Any

from kvgpu.compiled.jit import leaf
from kvgpu.eviction.state.lanes import node_of
from kvgpu.eviction.state.ranks import RANKS, enter_by_rank

ATTENTION = 2048
"""Blocks: attention to so many costs what the rest of a model does. 32,768 tokens, 16 a block, for a model of 8 billion
weights in 32 layers of width 4096."""
SHARES = 8
"""Parts of the cost of a first block that are told apart."""


@leaf
def note_cost(pool: Any, block_id: int, place: int) -> None:
    """Note what a block costs that so many blocks of its request precede."""
    node_of(pool.lanes, block_id).notes = min(SHARES + place * SHARES // ATTENTION, RANKS - 1)


@leaf
def enter_cost(pool: Any, block_id: int) -> None:
    """Place a cached block that has become free."""
    enter_by_rank(pool, block_id, node_of(pool.lanes, block_id).notes)
