"""`ManagerViews`: what a manager tells: blocks that requests hold, statistics, and events."""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kvgpu.allocation.lookups import PrefixLookups
from kvgpu.allocation.request_hints import RequestHints
from kvgpu.allocation.slots import SlotAllocator
from kvgpu.arguments import checked_name
from kvgpu.block_pool import BlockPool
from kvgpu.blocks.kv_cache_blocks import KVCacheBlocks
from kvgpu.blocks.state import KVCacheBlock
from kvgpu.config.kv_cache_config import KVCacheConfig
from kvgpu.coordinators.base import KVCacheCoordinator
from kvgpu.exclusive import Exclusive, exclusive
from kvgpu.metrics import PrefixCacheStats
from kvgpu.native import Calls

if TYPE_CHECKING:
    from kvgpu.events.messages import KVCacheEvent

logger = logging.getLogger(__name__)


class ManagerViews(Exclusive):
    """The part of `KVCacheManager` that tells how things are.

    Attributes:
        kv_cache_config: Of the manager.
        coordinator, block_pool, slots, lookups: Parts of the manager.
        enable_caching: Of the manager.
        hints: Hands hints of requests on; None if they give none.
        native: Serves usual calls of requests whose hashes lie in a list; None if Python serves all.
    """

    kv_cache_config: KVCacheConfig
    coordinator: KVCacheCoordinator
    block_pool: BlockPool
    enable_caching: bool
    slots: SlotAllocator
    lookups: PrefixLookups
    hints: RequestHints | None
    native: "Calls | None"
    reported_tokens: tuple[int, int] = (0, 0)
    """Tokens queried and hit in all that `make_prefix_cache_stats` has returned so far; one word, for any thread."""

    @property
    def prefix_cache_stats(self) -> PrefixCacheStats | None:
        """The counts since the last `make_prefix_cache_stats`, or None without `log_stats`. O(1)."""
        return self.lookups.stats

    @property
    def usage(self) -> float:
        """Fraction of the pool's blocks in use, 0.0 to 1.0. O(1)."""
        return self.block_pool.get_usage()

    @exclusive
    def make_prefix_cache_stats(self) -> PrefixCacheStats | None:
        """Return the counts since the last call, or None without `log_stats`. O(1)."""
        stats = self.lookups.take_stats()
        if stats is not None:
            queries, hits = self.reported_tokens
            self.reported_tokens = queries + stats.queries, hits + stats.hits
        return stats

    def prefix_cache_lookup_enabled(self, request: Any) -> bool:
        """Whether a lookup of a request may find anything. O(1)."""
        return self.enable_caching and not request.skip_reading_prefix_cache

    @exclusive
    def record_prefix_cache_stats(self, request: Any, num_hits: int) -> None:
        """Count the lookup of a request that was admitted with so many cached tokens, in behaviour 0.33 (B51). O(1)."""
        if self.prefix_cache_lookup_enabled(request):
            self.lookups.count_admission(request.num_tokens, num_hits, request.num_preemptions > 0)

    def get_blocks(self, request_id: str) -> KVCacheBlocks:
        """Return the blocks that a request holds, none if it is unknown; they change with the next call. O(groups)."""
        tables = self.slots.first_tables
        is_known = tables is not None and checked_name(request_id) in tables
        return KVCacheBlocks(self.coordinator.get_blocks(request_id)) if is_known else self.lookups.empty

    def get_block_ids(self, request_id: str) -> tuple[list[int], ...]:
        """Return a copy of the ids of the blocks that a request holds, per group. O(blocks)."""
        calls = self.native
        if calls is not None and (ids := calls.get_block_ids(request_id)) is not NotImplemented:
            return ids
        return self.get_blocks(request_id).get_block_ids()

    def get_num_common_prefix_blocks(self, running_request_id: str) -> list[int]:
        """Return how many leading blocks all requests share, per group, for cascade attention (fact 51). O(blocks).

        Zeros in behaviour 0.33, which has no such attention.
        """
        if not self.coordinator.behaviour.counts_shared_blocks:
            return [0] * len(self.coordinator.single_type_managers)
        calls = self.native
        if (
            calls is not None
            and (counts := calls.get_num_common_prefix_blocks(running_request_id)) is not NotImplemented
        ):
            return counts
        return self.slots.get_num_common_prefix_blocks(checked_name(running_request_id))

    def create_kv_cache_blocks(self, blocks: tuple[Sequence[KVCacheBlock], ...]) -> KVCacheBlocks:
        """Wrap block lists, one per group; if all are empty, the result is a shared object. O(groups)."""
        return self.lookups.wrapped(blocks)

    @exclusive
    def take_new_block_ids(self) -> list[int]:
        """Return the ids of blocks allocated since the last call that an engine may want to zero (fact 24). O(ids)."""
        return [id for manager in self.coordinator.single_type_managers for id in manager.take_new_block_ids()]

    def take_events(self) -> "list[KVCacheEvent]":
        """Return the events since the last call, in order (facts 59 and B95). O(events).

        Each stored event has the kind and the window of its group.
        """
        if not (self.block_pool.events.enabled or self.turn.holders):
            return []
        events = self.block_pool.take_events()
        if events:
            from kvgpu.events.messages import annotate

            annotate(events, self.kv_cache_config.kv_cache_groups, logger)
        return events

    def check(self) -> None:
        """Check that pool, index and block tables agree; raises what `BlockPool.check` does. O(blocks of the pool)."""
        self.block_pool.check()
