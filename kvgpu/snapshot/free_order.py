"""Section `order` of a snapshot: the queue of free blocks."""

from collections.abc import Callable

import numpy as np

from kvgpu.blocks.free_order import OUTSIDE
from kvgpu.blocks.lru import link_all
from kvgpu.coordinators.base import KVCacheCoordinator
from kvgpu.snapshot.archive import Arrays
from kvgpu.snapshot.fields import Fields
from kvgpu.snapshot.freed_pool import FreedPool


def written(coordinator: KVCacheCoordinator, freed: FreedPool) -> Arrays:
    """Return the arrays of the section: `ids`, int32, in the order of the queue. O(blocks)."""
    return {"ids": freed.order}


def checked(fields: Fields, coordinator: KVCacheCoordinator, now: int) -> Callable[[], None]:
    """Return what makes the queue of an unused pool have this order.

    Raises:
        SnapshotError: The ids are not those of the free blocks, once each.

    O(blocks log blocks).
    """
    free = coordinator.block_pool.state.free
    usable = np.flatnonzero(free.uses["place"][:-1] != OUTSIDE)
    ids = fields.take("ids", np.int32, (len(usable),)).copy()
    if not np.array_equal(np.sort(ids), usable):
        raise fields.error("the ids are not those of all free blocks, once each")
    return lambda: link_all(*free, ids)
