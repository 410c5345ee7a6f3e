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

    Requests are freed in the order in which they got their first blocks, as `KVCacheManager.free` does, and give no
    hints. Then pins are given up, in order. Then come blocks that callers of the pool hold, by id, as
    `BlockPool.free_blocks` takes them.

    Args:
        coordinator: Of the manager.
        now: The time in ns, by the clock of its hints; 0 if requests give none.

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

        def give_back(ids: Ids, splits: bool, backwards: bool) -> None:
            own = ids[ids >= 0]
            if splits:
                release_by_hash(*free, state.records, own if backwards else own[::-1].copy(), state.null_id)
            else:
                release(*free, own, state.null_id, backwards, False)

        managers = coordinator.single_type_managers
        for name in dict.fromkeys(name for manager in managers for name in manager.req_to_blocks):
            tables = [(manager.req_to_blocks.get(name), manager.splits_freed_blocks) for manager in managers]
            if self.eviction is not None and shares_of(self.eviction) is not None:
                for blocks, _ in tables:
                    if blocks is not None:
                        self.eviction.hint(blocks.ids[blocks.ids != state.null_id], USUAL_PRIORITY, 0, 0)
            for blocks, splits in tables:
                if blocks is not None:
                    give_back(blocks.ids, splits, True)
        for ids in pool.holders.pins.values():
            give_back(ids, False, True)
        users = free.uses["ref_cnt"][:-1]
        users[[state.null_id, *reserved_ids(coordinator)]] = 0
        held = np.flatnonzero(users > 0).astype(np.int32)
        users[held] = 1
        give_back(held, pool.behaviour.splits_freed_blocks, False)
        self.order: Ids = free_ids(free.order, free.queue_words, len(free.order))
        if len(self.order) != pool.num_gpu_blocks - 1 - pool.num_reserved_blocks:
            raise BlockStateError("some blocks are neither held nor free: see check()")


def shares_of(eviction: "Eviction") -> list[int] | None:
    """Return how many blocks each tenant keeps; None if requests give no hints. O(tenants)."""
    from kvgpu.eviction.state.arrays import HINT_NUMBERS, SHARES
    from kvgpu.eviction.state.hints import FIRST_LANE

    handle = eviction._handle
    return handle.array(SHARES)[1:].tolist() if handle.array(HINT_NUMBERS)[FIRST_LANE] else None


def reserved_ids(coordinator: KVCacheCoordinator) -> Ids:
    """Return the blocks that the model keeps for itself, int32. O(them)."""
    kept = [
        each.sink_blocks.ids for each in coordinator.single_type_managers if isinstance(each, SinkFullAttentionManager)
    ]
    return np.concatenate([NO_IDS, *kept])
