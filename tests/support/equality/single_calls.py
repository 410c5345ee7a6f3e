"""What a scheduler does for one request at a time: the truth that batches are compared with."""

from dataclasses import dataclass
from typing import Any

from kvgpu.manager import KVCacheManager


@dataclass
class Pair:
    """A request for single calls, the equal one of the batch, and whether they hold blocks."""

    single: Any
    batched: Any
    running: bool = False


@dataclass
class Expected:
    """What single calls gave one request."""

    fits: bool
    num_hit_tokens: int
    num_new_tokens: int
    block_ids: tuple[list[int], ...]
    slots: list[list[int]]
    """Per group."""

    @classmethod
    def nothing(cls, num_groups: int, num_hit_tokens: int = 0) -> "Expected":
        """For a request that did not fit, or was not tried."""
        empty = [[] for _ in range(num_groups)]
        return cls(False, num_hit_tokens, 0, tuple(empty), empty)


def ask(manager: KVCacheManager, request: Any, running: bool, count: int, options: dict[str, Any]) -> Expected:
    """What a scheduler does for one request."""
    blocks, num_hits = None, 0
    if not running:
        blocks, num_hits, *junction = manager.get_computed_blocks(request)
        if junction:
            request.shared_prefix_boundary = junction[0]
        count = min(count, request.num_tokens - num_hits)
    got = manager.allocate_slots(request, count, num_hits, blocks, **options)
    groups = manager.coordinator.single_type_managers
    if got is None:
        return Expected.nothing(len(groups), num_hits)
    if not running and not manager.behaviour.counts_lookups:
        manager.record_prefix_cache_stats(request, num_hits)
    first = request.num_computed_tokens + num_hits
    request.num_computed_tokens = first + count
    slots = [
        [
            ids[place // group.block_size] * group.block_size + place % group.block_size
            for place in range(first, first + count)
            if place < len(ids) * group.block_size
        ]
        for group, ids in zip(groups, manager.get_block_ids(request.request_id), strict=True)
    ]
    return Expected(True, num_hits, count, got.get_block_ids(), slots)
