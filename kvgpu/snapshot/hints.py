"""Section `hints` of a snapshot: what requests said of blocks."""

from collections.abc import Callable
from typing import Any

import numpy as np

from kvgpu.config.cache_hints import LONGEST_LIFETIME, MOST_PRIORITY
from kvgpu.coordinators.base import KVCacheCoordinator
from kvgpu.eviction.state.arrays import DEADLINES, HEAP, HEAP_PLACES, LEVELS, LIFETIME_WORDS, SHARES, TENANTS
from kvgpu.eviction.state.lifetimes import COUNT, NEVER, NOW, UNDATED
from kvgpu.snapshot.archive import Arrays
from kvgpu.snapshot.fields import Fields
from kvgpu.snapshot.freed_pool import FreedPool

LONGEST = int(LONGEST_LIFETIME) * 1_000_000_000
NO_END = -1


def written(coordinator: KVCacheCoordinator, freed: FreedPool) -> Arrays:
    """Return the arrays of the section; `left` is the time in ns that blocks have until their deadline. O(blocks)."""
    eviction = freed.eviction
    assert eviction is not None
    deadlines: Any = eviction.array(DEADLINES)
    left = np.maximum(deadlines - eviction.array(LIFETIME_WORDS)[NOW], 0)
    return {
        "levels": eviction.array(LEVELS),
        "tenants": eviction.array(TENANTS),
        "left": np.where(deadlines == NEVER, NO_END, left),
    }


def checked(fields: Fields, coordinator: KVCacheCoordinator) -> Callable[[], None]:
    """Return what makes the policy of an unused pool know the same; deadlines count from the time it was last told.

    Raises:
        SnapshotError: A number is out of range.

    O(blocks log blocks).
    """
    pool, eviction = coordinator.block_pool, coordinator.block_pool.eviction
    assert eviction is not None
    count = pool.num_gpu_blocks
    levels = fields.numbers("levels", np.uint8, 0, MOST_PRIORITY + 1, count)
    tenants = fields.numbers("tenants", np.int16, 0, len(eviction.array(SHARES)) - 1, count)
    left = fields.numbers("left", np.int64, NO_END, LONGEST, count)

    def change() -> None:
        words: Any = eviction.array(LIFETIME_WORDS)
        dated = np.flatnonzero(left != NO_END)
        dated = dated[np.argsort(left[dated], kind="stable")]  # a sorted array is a heap
        deadlines: Any = eviction.array(DEADLINES)
        deadlines[:] = NEVER
        deadlines[dated] = np.maximum(words[NOW] + left[dated], 1)
        places: Any = eviction.array(HEAP_PLACES)
        places[:] = UNDATED
        places[dated] = np.arange(len(dated))
        heap: Any = eviction.array(HEAP)
        heap[: len(dated)] = dated
        words[COUNT] = len(dated)
        eviction.array(LEVELS)[:] = levels
        eviction.array(TENANTS)[:] = tenants

    return change
