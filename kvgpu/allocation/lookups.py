"""`PrefixLookups`: finds the cached prefix of one request, and counts lookups."""

from collections.abc import Sequence
from typing import Any

from kvgpu.arguments import name_of, refuse_odd_hashes, sequence_of_hashes
from kvgpu.blocks.kv_cache_blocks import KVCacheBlocks
from kvgpu.blocks.state import KVCacheBlock
from kvgpu.coordinators.base import Hits, KVCacheCoordinator
from kvgpu.errors import ArgumentTypeError
from kvgpu.exclusive import Exclusive, exclusive
from kvgpu.hashing.block_hashes import BlockHashes
from kvgpu.integers import as_integer, as_option
from kvgpu.metrics import PrefixCacheStats
from kvgpu.rules.plan_words import MAMBA


class PrefixLookups(Exclusive):
    """Lookups of requests in all groups of a coordinator.

    Args:
        coordinator: Of these groups.
        log_stats: Whether lookups are counted.
        counts_admissions: Whether a request counts when it gets its first blocks, not at each lookup.

    Attributes:
        stats: Counts since the last `take_stats`; None if lookups are not counted.
        counts_admissions: The same.
        empty: `KVCacheBlocks` without blocks, the same object for all calls that need none.

    Raises:
        ConfigError: An option is neither true nor false.
    """

    def __init__(self, coordinator: KVCacheCoordinator, log_stats: bool, counts_admissions: bool) -> None:
        super().__init__(coordinator.block_pool.turn)
        self._coordinator = coordinator
        self._enable_caching = coordinator.block_pool.enable_caching
        self.stats = PrefixCacheStats() if log_stats else None
        behaviour = coordinator.behaviour
        self.counts_admissions = as_option("counts_admissions", counts_admissions)
        self._counts_lookups = behaviour.counts_lookups and not self.counts_admissions
        self._reports_junction = behaviour.reports_junction
        self._notes_junction = behaviour.notes_junction
        self._tells_junction = self._reports_junction or self._notes_junction
        self.empty = KVCacheBlocks(tuple(() for _ in coordinator.single_type_managers))

    def wrapped(self, blocks: tuple[Sequence[KVCacheBlock], ...]) -> KVCacheBlocks:
        """Blocks of each group; all empty ones are one shared object. O(groups)."""
        return KVCacheBlocks(blocks) if any(map(len, blocks)) else self.empty

    @exclusive
    def get_computed_blocks(self, request: Any, max_length: int | None = None) -> tuple[Any, ...]:
        """Do what `KVCacheManager.get_computed_blocks` does."""
        try:
            if not self._enable_caching or request.skip_reading_prefix_cache:
                return (self.empty, 0, 0) if self._reports_junction else (self.empty, 0)
            hashes, num_tokens = request.block_hashes, request.num_tokens
            preempted = self._counts_lookups and self.stats is not None and bool(request.num_preemptions > 0)
        except (AttributeError, TypeError, ValueError) as error:
            raise ArgumentTypeError(f"a request that can be looked up is expected: {error}") from None
        num_tokens = as_integer("num_tokens", num_tokens)
        if max_length is None:
            longest = num_tokens - 1 if num_tokens else 0
        else:
            longest = as_integer("max_cache_hit_length", max_length)
        if hashes.__class__ is not list and hashes.__class__ is not BlockHashes:
            sequence_of_hashes(name_of(request), hashes)
        try:  # as `find_hits`, one call less
            blocks, num_hits, furthest = self._coordinator.find_hits(hashes, longest)
        except TypeError:
            refuse_odd_hashes(request.request_id, hashes)
            raise
        if self.stats is not None and self._counts_lookups:
            self.stats.add(num_tokens, num_hits, preempted)
        found = KVCacheBlocks(blocks) if num_hits else self.wrapped(blocks)
        if not self._tells_junction:
            return found, num_hits
        if self._notes_junction:
            self._coordinator.num_uncached_common_prefix_tokens = max(furthest - num_hits, 0)
        if not self._reports_junction:
            return found, num_hits
        if num_hits and getattr(request, "kv_cache_report_mode", None) == "full":
            self._report(request, found)
        return found, num_hits, furthest if furthest > num_hits else 0

    def find_hits(self, request: Any, hashes: Any, longest: int) -> Hits:
        """Find the longest prefix of at most `longest` tokens that is cached in all groups; nothing is counted.

        Raises:
            ArgumentTypeError: Some of the hashes are none.
        """
        try:
            return self._coordinator.find_hits(hashes, longest)
        except TypeError:
            refuse_odd_hashes(request.request_id, hashes)
            raise

    def _report(self, request: Any, found: KVCacheBlocks) -> None:
        """Queue hits as events, for consumers that follow single requests (B93)."""
        pool = self._coordinator.block_pool
        for group, blocks in enumerate(found.blocks):
            if pool.enable_kv_cache_events and len(blocks):
                spec = self._coordinator.single_type_managers[group].kv_cache_spec
                pool.emit_cached_block_events(request, len(blocks), spec.block_size, group)

    def for_connector(self, request: Any, max_length: int | None = None) -> tuple[KVCacheBlocks, int, int, bool]:
        """Do what `KVCacheManager.get_computed_blocks_for_connector` does."""
        coordinator = self._coordinator
        full = coordinator.full_attention_group_id
        groups = coordinator.single_type_managers
        if full is None or not any(group.rule_kind == MAMBA for group in groups):
            return self._with_junction(request, max_length)
        if not self._enable_caching or request.skip_reading_prefix_cache:
            return self.empty, 0, 0, False
        num_tokens = as_integer("num_tokens", request.num_tokens)
        longest = max(0, num_tokens - 1)
        if max_length is not None:
            longest = as_integer("max_cache_hit_length", max_length)
        sequence_of_hashes(name_of(request), request.block_hashes)
        blocks, hits = coordinator.find_longest_cache_hit_per_group(request.block_hashes, longest)
        if max(hits) > hits[full]:
            # Blocks of full attention were evicted: all groups agree on a shorter prefix.
            return self._with_junction(request, max_length)
        return self.wrapped(blocks), hits[full], 0, min(hits) < hits[full]

    def _with_junction(self, request: Any, max_length: int | None) -> tuple[KVCacheBlocks, int, int, bool]:
        blocks, num_hits, *junction = self.get_computed_blocks(request, max_length)
        return blocks, num_hits, junction[0] if junction else 0, False

    def count_admission(self, num_tokens: int, num_hit_tokens: int, preempted: bool) -> None:
        """Count a request that has got its first blocks, where `counts_admissions` is set. O(1)."""
        if self.stats is not None:
            self.stats.record(num_tokens, num_hit_tokens, preempted)

    def take_stats(self) -> PrefixCacheStats | None:
        """Return the counts since the last call, or None if nothing is counted. O(1)."""
        stats = self.stats
        if stats is not None:
            self.stats = PrefixCacheStats()
        return stats
