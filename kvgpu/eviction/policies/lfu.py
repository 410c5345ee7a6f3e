"""Least frequently used with dynamic ageing: a block is worth how often it was used since it was cached.

M. Arlitt et al.: Evaluating Content Management Techniques for Web Proxy Caches, SIGMETRICS PER 27 (4), 2000.
"""

from typing import Any

from kvgpu.compiled.jit import leaf
from kvgpu.eviction.state.lanes import MOST_HITS, node_of
from kvgpu.eviction.state.ranks import enter_by_rank


@leaf
def enter_lfu(pool: Any, block_id: int) -> None:
    """Place a cached block that has become free."""
    enter_by_rank(pool, block_id, min(node_of(pool.lanes, block_id).hits + 1, MOST_HITS))
