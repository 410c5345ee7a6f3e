"""Section `hints` of a snapshot: what requests have said of the blocks that they used."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from kvgpu.coordinators.base import KVCacheCoordinator
from kvgpu.eviction.state.arrays import DEADLINES, HEAP, HEAP_PLACES, LEVELS, LIFETIME_WORDS, SHARES, TENANTS
from kvgpu.eviction.state.hints import PRIORITIES
from kvgpu.eviction.state.lifetimes import COUNT, NEVER, UNDATED, Lifetimes
from kvgpu.snapshot.archive import Arrays
from kvgpu.snapshot.fields import Fields, unique
from kvgpu.snapshot.freed_pool import FreedPool

if TYPE_CHECKING:
    from kvgpu.eviction.policy import Eviction

LONGEST = 1 << 60
"""Nanoseconds that are left to a block, at most: more than the longest lifetime of a request."""


def _array(eviction: "Eviction", place: int) -> Any:
    return eviction._handle.array(place)


def _lifetimes(eviction: "Eviction") -> Lifetimes:
    return Lifetimes(*(_array(eviction, place) for place in (DEADLINES, HEAP, HEAP_PLACES, LIFETIME_WORDS)))


def written(coordinator: KVCacheCoordinator, freed: FreedPool) -> Arrays:
    """Return the arrays of the section; of a deadline it has the time that is left, at least 1 ns. O(blocks)."""
    assert freed.eviction is not None
    life = _lifetimes(freed.eviction)
    dated = life.heap[: life.words[COUNT]].copy()
    return {
        "levels": _array(freed.eviction, LEVELS),
        "tenants": _array(freed.eviction, TENANTS).astype(np.int32),
        "dated": dated,
        "left": np.maximum(life.deadlines[dated] - freed.now, 1),
    }


def checked(fields: Fields, coordinator: KVCacheCoordinator, now: int) -> Callable[[], None]:
    """Return what makes the policy of an unused pool know the same, at a time in ns.

    Raises:
        SnapshotError: No requests can have said this.

    O(blocks log blocks).
    """
    pool, eviction = coordinator.block_pool, coordinator.block_pool.eviction
    assert eviction is not None
    count = pool.num_gpu_blocks
    levels = fields.numbers("levels", np.uint8, 0, PRIORITIES, count)
    tenants = fields.numbers("tenants", np.int32, 0, len(_array(eviction, SHARES)) - 1, count)
    dated = fields.numbers("dated", np.int32, 0, count - 1)
    left = fields.numbers("left", np.int64, 1, LONGEST, len(dated))
    above = (np.arange(1, len(left)) - 1) // 2
    if not unique(dated) or (left[above] > left[1:]).any():
        raise fields.error("a block has two deadlines, or they are no heap")
    life = _lifetimes(eviction)

    def change() -> None:
        _array(eviction, LEVELS)[:] = levels
        _array(eviction, TENANTS)[:] = tenants
        life.words[COUNT] = 0
        life.deadlines[:], life.places[:] = NEVER, UNDATED
        life.deadlines[dated], life.places[dated] = now + left, np.arange(len(dated))
        life.heap[: len(dated)] = dated
        life.words[COUNT] = len(dated)

    return change
