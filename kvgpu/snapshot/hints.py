"""Section `hints` of a snapshot: what requests said of blocks."""

from collections.abc import Callable
from typing import Any

import numpy as np

from kvgpu.config.cache_hints import LONGEST_LIFETIME, MOST_PRIORITY
from kvgpu.coordinators.base import KVCacheCoordinator
from kvgpu.eviction.state.arrays import DEADLINES, HEAP, HEAP_PLACES, LIFETIME_WORDS, NODES, SHARES
from kvgpu.eviction.state.lifetimes import COUNT, NEVER, UNDATED
from kvgpu.snapshot.archive import Arrays
from kvgpu.snapshot.fields import Fields, unique
from kvgpu.snapshot.freed_pool import FreedPool

LONGEST = int(LONGEST_LIFETIME) * 1_000_000_000


def written(coordinator: KVCacheCoordinator, freed: FreedPool) -> Arrays:
    """Return the arrays of the section. O(blocks).

    `dated` are the blocks with a deadline, in the order of the heap, on which it depends who of several with the same
    one goes first; `left` is the time in ns that each has, 0 if its deadline is over.
    """
    eviction = freed.eviction
    assert eviction is not None
    deadlines: Any = eviction.array(DEADLINES)
    nodes = eviction.array(NODES)[: len(deadlines)]
    dated = eviction.array(HEAP)[: eviction.array(LIFETIME_WORDS)[COUNT]].copy()
    left = np.maximum(deadlines[dated] - freed.now, 0)
    of_blocks = {"levels": nodes["level"], "tenants": nodes["tenant"], "expired": nodes["expired"]}
    return {**of_blocks, "dated": dated, "left": left}


def checked(fields: Fields, coordinator: KVCacheCoordinator, now: int) -> Callable[[], None]:
    """Return what makes the policy of an unused pool know the same, at a time in ns.

    Raises:
        SnapshotError: A number is out of range, or the deadlines are no heap.

    O(blocks log blocks).
    """
    pool, eviction = coordinator.block_pool, coordinator.block_pool.eviction
    assert eviction is not None
    count = pool.num_gpu_blocks
    levels = fields.numbers("levels", np.uint8, 0, MOST_PRIORITY + 1, count)
    tenants = fields.numbers("tenants", np.int16, 0, len(eviction.array(SHARES)) - 1, count)
    expired = fields.numbers("expired", np.uint8, 0, 1, count)
    dated = fields.numbers("dated", np.int32, 0, count - 1)
    left = fields.numbers("left", np.int64, 0, LONGEST, len(dated))
    above = (np.arange(1, len(left)) - 1) // 2
    if not unique(dated) or (left[above] > left[1:]).any():
        raise fields.error("a block has two deadlines, or they are no heap")

    def change() -> None:
        words: Any = eviction.array(LIFETIME_WORDS)
        deadlines: Any = eviction.array(DEADLINES)
        places: Any = eviction.array(HEAP_PLACES)
        heap: Any = eviction.array(HEAP)
        words[COUNT] = 0
        deadlines[:], places[:] = NEVER, UNDATED
        deadlines[dated], places[dated] = np.maximum(now + left, 1), np.arange(len(dated))
        heap[: len(dated)] = dated
        words[COUNT] = len(dated)
        nodes = eviction.array(NODES)
        nodes["level"][:count], nodes["tenant"][:count], nodes["expired"][:count] = levels, tenants, expired

    return change
