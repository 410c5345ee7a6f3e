"""`PrefixLookups`: finds the cached prefix of one request, and counts lookups."""

from collections.abc import Sequence
from typing import Any

from kvgpu.arguments import name_of, refuse_odd_hashes, sequence_of_hashes
from kvgpu.blocks.kv_cache_blocks import KVCacheBlocks
from kvgpu.blocks.state import KVCacheBlock
from kvgpu.coordinators.base import KVCacheCoordinator
from kvgpu.errors import ArgumentTypeError
from kvgpu.exclusive import Exclusive, exclusive
from kvgpu.hashing.block_hashes import BlockHashes
from kvgpu.integers import as_integer, as_option
from kvgpu.metrics import PrefixCacheStats


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
        self.counts_admissions = as_option("counts_admissions", counts_admissions)
        self.empty = KVCacheBlocks(tuple(() for _ in coordinator.single_type_managers))

    def wrapped(self, blocks: tuple[Sequence[KVCacheBlock], ...]) -> KVCacheBlocks:
        """Blocks of each group; all empty ones are one shared object. O(groups)."""
        return KVCacheBlocks(blocks) if any(map(len, blocks)) else self.empty

    @exclusive
    def get_computed_blocks(self, request: Any) -> tuple[KVCacheBlocks, int]:
        """Do what `KVCacheManager.get_computed_blocks` does."""
        try:
            if not self._enable_caching or request.skip_reading_prefix_cache:
                return self.empty, 0
            hashes, num_tokens = request.block_hashes, request.num_tokens
            preempted = self.stats is not None and bool(request.num_preemptions > 0)
        except (AttributeError, TypeError, ValueError) as error:
            raise ArgumentTypeError(f"a request that can be looked up is expected: {error}") from None
        num_tokens = as_integer("num_tokens", num_tokens)
        if hashes.__class__ is not list and hashes.__class__ is not BlockHashes:
            sequence_of_hashes(name_of(request), hashes)
        try:
            blocks, num_hits = self._coordinator.find_longest_cache_hit(hashes, num_tokens - 1 if num_tokens else 0)
        except TypeError:
            refuse_odd_hashes(request.request_id, hashes)
            raise
        if self.stats is not None and not self.counts_admissions:
            self.stats.add(num_tokens, num_hits, preempted)
        return (KVCacheBlocks(blocks) if num_hits else self.wrapped(blocks)), num_hits

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
