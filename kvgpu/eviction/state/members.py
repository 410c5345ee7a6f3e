"""What all policies ask of a block, and of the list of those that are not cached."""

from typing import Any

import numpy as np

from kvgpu.blocks.free_order import OUTSIDE
from kvgpu.blocks.record import HAS_HASH, SHARED
from kvgpu.compiled.jit import leaf, prefetch
from kvgpu.eviction.state.ghosts import forget_ghost, remember_ghost
from kvgpu.eviction.state.lanes import NO_BLOCK, drop, first_of, node_of, num_nodes

PLAIN = 0
"""The list of free blocks that are not cached, which are taken before all others."""


@leaf
def is_own(pool: Any, block_id: int) -> bool:
    """Return whether a block is one of the pool: those of others have ids below 0."""
    return bool(0 <= block_id < num_nodes(pool.lanes))


@leaf
def is_free(pool: Any, block_id: int) -> bool:
    """Return whether nobody uses a block."""
    return bool(pool.free.uses[np.uint64(block_id)].place != OUTSIDE)


@leaf
def is_cached(pool: Any, block_id: int) -> bool:
    """Return whether a lookup can find a block."""
    return bool(pool.records[np.uint64(block_id)].flags & HAS_HASH != 0)


@leaf
def is_new(pool: Any, block_id: int) -> bool:
    """Return whether a cached block has not been hit since it was cached, nor been free."""
    node = node_of(pool.lanes, block_id)
    return bool(node.hits == 0 and node.notes == 0)


@leaf
def key_of(pool: Any, block_id: int) -> int:
    """Return a word that stands for the key of a cached block."""
    record = pool.records[np.uint64(block_id)]
    return int(record.k0 ^ record.k1 ^ record.group)


@leaf
def remember_evicted(pool: Any, which: int, block_id: int) -> None:
    """Put the key of a cached block that is evicted at the end of a list of evicted keys.

    A key is forgotten there when a block with it becomes free for the first time, and here if two blocks had it. So it
    is there twice only if its block got it in place of another one while in use, which costs one place.
    """
    key = key_of(pool, block_id)
    if pool.records[np.uint64(block_id)].flags & SHARED != 0:
        forget_ghost(pool.ghosts, key)
    remember_ghost(pool.ghosts, which, key)


@leaf
def first_free(pool: Any, lane: int) -> int:
    """Return the first block of a list that nobody uses, or NO_BLOCK; those before it leave. Amortised O(1)."""
    block_id = first_of(pool.lanes, lane)
    while block_id != NO_BLOCK and not is_free(pool, block_id):
        drop(pool.lanes, block_id)
        block_id = first_of(pool.lanes, lane)
    if block_id != NO_BLOCK:
        prefetch(pool.lanes.nodes, node_of(pool.lanes, block_id).after)
    return block_id
