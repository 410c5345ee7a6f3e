"""`FreedPool`: the queue and the policy of a pool as they would be if everybody gave back what they hold."""

from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np

from kvgpu.blocks.lru import free_ids
from kvgpu.blocks.lru_release import release, release_by_hash
from kvgpu.blocks.record import NO_IDS, Ids
from kvgpu.config.cache_hints import USUAL_PRIORITY
from kvgpu.coordinators.base import KVCacheCoordinator
from kvgpu.errors import BlockStateError
from kvgpu.groups.sink import SinkFullAttentionManager

if TYPE_CHECKING:
    from kvgpu.eviction.policy import Eviction


class FreedPool:
    """What a pool would be if all requests were freed; the pool itself stays as it is.

    Requests are freed in the order in which they got their first blocks, as `KVCacheManager.free` does. Then come
    blocks that callers of the pool hold, by id, as `BlockPool.free_blocks` takes them.

    Args:
        coordinator: Of the manager.
        now: The time in ns, by the clock of hints; 0 if requests give none.

    Raises:
        BlockStateError: Blocks are missing: neither is anybody known to hold them, nor are they free.

    Construction is O(blocks of the pool).

    Attributes:
        order: int32 ids of the free blocks, in the order of the queue.
        eviction: The policy; None without one.
        now: The same.
    """

    def __init__(self, coordinator: KVCacheCoordinator, now: int) -> None:
        self.now = now
        pool, state = coordinator.block_pool, coordinator.block_pool.state
        memo: dict[int, Any] = {id(state.records): state.records}  # which nothing here writes to
        free = deepcopy(state.free, memo)
        self.eviction: Eviction | None = deepcopy(pool.eviction, memo)

        hinted = self.eviction if self.eviction is not None and self.eviction.shares is not None else None

        def give_back(ids: Ids, splits: bool, backwards: bool) -> None:
            own = ids[ids >= 0]
            if hinted is not None and backwards:  # of a request, which can say nothing more
                hinted.hint(own[own != state.null_id], USUAL_PRIORITY, 0, 0)
            if splits:
                release_by_hash(*free, state.records, own if backwards else own[::-1].copy(), state.null_id)
            else:
                release(*free, own, state.null_id, backwards, False)

        managers = coordinator.single_type_managers
        for name in dict.fromkeys(name for manager in managers for name in manager.req_to_blocks):
            for manager in managers:
                if name in manager.req_to_blocks:
                    give_back(manager.req_to_blocks[name].ids, manager.splits_freed_blocks, True)
        users = free.uses["ref_cnt"][:-1]
        users[[state.null_id, *reserved_ids(coordinator)]] = 0
        held = np.flatnonzero(users > 0).astype(np.int32)
        users[held] = 1
        give_back(held, pool.behaviour.splits_freed_blocks, False)
        self.order: Ids = free_ids(free.order, free.queue_words, len(free.order))
        if len(self.order) != pool.num_gpu_blocks - 1 - pool.num_reserved_blocks:
            raise BlockStateError("some blocks are neither held nor free: see check()")


def reserved_ids(coordinator: KVCacheCoordinator) -> Ids:
    """Return the blocks that the model keeps for itself, int32. O(them)."""
    kept = [
        each.sink_blocks.ids for each in coordinator.single_type_managers if isinstance(each, SinkFullAttentionManager)
    ]
    return np.concatenate([NO_IDS, *kept])
