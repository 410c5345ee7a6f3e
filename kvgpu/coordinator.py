"""Coordinators: one request over all cache groups."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from kvgpu.block_pool import BlockPool
from kvgpu.blocks import NO_IDS, BlockList, KVCacheBlock
from kvgpu.config import retention_interval
from kvgpu.errors import ConfigError
from kvgpu.groups.base import Blocks, SingleTypeKVCacheManager
from kvgpu.groups.cross import CrossAttentionManager
from kvgpu.groups.registry import get_manager_for_kv_cache_spec, layer_spec, manager_class
from kvgpu.groups.sliding_window import SlidingWindowManager
from kvgpu.hashing import BlockHash
from kvgpu.metrics import KVCacheMetricsCollector
from kvgpu.specs import FullAttentionSpec, KVCacheConfig, KVCacheSpec

logger = logging.getLogger(__name__)

Hits = tuple[tuple[Sequence[KVCacheBlock], ...], int]
"""Blocks per group and the length of the hit in tokens."""


class KVCacheCoordinator(ABC):
    """Asks every group, and finds hits that all of them agree on.

    Args:
        kv_cache_config: Blocks and groups.
        max_model_len: Longest sequence, in tokens.
        max_num_batched_tokens: Most tokens of one step.
        use_eagle: Whether a drafter needs the last block of a hit computed again.
        enable_caching: Whether full blocks are kept for reuse.
        enable_kv_cache_events: Whether events are queued.
        dcp_world_size: Decode context parallelism.
        pcp_world_size: Prefill context parallelism.
        scheduler_block_size: Hits are multiples of so many tokens.
        hash_block_size: Tokens per block hash.
        metrics_collector: Told of allocations, accesses and evictions.
        backend: Index backend; None for the configured one.

    Raises:
        ConfigError: The configuration cannot work.
    """

    def __init__(
        self,
        kv_cache_config: KVCacheConfig,
        max_model_len: int,
        max_num_batched_tokens: int,
        use_eagle: bool,
        enable_caching: bool,
        enable_kv_cache_events: bool,
        dcp_world_size: int,
        pcp_world_size: int,
        scheduler_block_size: int,
        hash_block_size: int,
        metrics_collector: KVCacheMetricsCollector | None = None,
        *,
        backend: str | None = None,
    ) -> None:
        groups = kv_cache_config.kv_cache_groups
        self.kv_cache_config = kv_cache_config
        self.max_model_len = max_model_len
        self.enable_caching = enable_caching
        self.dcp_world_size = dcp_world_size
        self.pcp_world_size = pcp_world_size
        self.scheduler_block_size = scheduler_block_size
        self.hash_block_size = hash_block_size
        self.block_pool = BlockPool(
            kv_cache_config.num_blocks,
            enable_caching,
            hash_block_size,
            enable_kv_cache_events,
            metrics_collector,
            backend=backend,
        )
        flagged = {i for i, group in enumerate(groups) if group.is_eagle_group}
        self.eagle_group_ids = flagged or (set(range(len(groups))) if use_eagle else set())
        self.single_type_managers: tuple[SingleTypeKVCacheManager, ...] = tuple(
            get_manager_for_kv_cache_spec(
                group.kv_cache_spec,
                max_num_batched_tokens,
                max_model_len,
                block_pool=self.block_pool,
                enable_caching=enable_caching,
                kv_cache_group_id=i,
                scheduler_block_size=scheduler_block_size,
                dcp_world_size=dcp_world_size,
                pcp_world_size=pcp_world_size,
            )
            for i, group in enumerate(groups)
        )
        for i, manager in enumerate(self.single_type_managers):
            manager.use_eagle = i in self.eagle_group_ids
        self.retention_interval = self._checked_retention(retention_interval())

    def _checked_retention(self, interval: int | None) -> int | None:
        if interval is None:
            return None
        if interval < 0:
            raise ConfigError(f"the retention interval must be non-negative, got {interval}")
        if interval % self.scheduler_block_size:
            raise ConfigError(
                f"the retention interval {interval} must be a multiple of scheduler_block_size "
                f"{self.scheduler_block_size}"
            )
        if not any(isinstance(m, SlidingWindowManager) for m in self.single_type_managers):
            raise ConfigError("a retention interval needs a sliding-window group")
        return interval

    @abstractmethod
    def find_longest_cache_hit(
        self, block_hashes: Sequence[BlockHash], max_cache_hit_length: int
    ) -> Hits:
        """Longest prefix of at most `max_cache_hit_length` tokens that is cached in all groups."""

    def get_num_blocks_to_allocate(
        self,
        request_id: str,
        num_tokens: int,
        new_computed_blocks: Sequence[Blocks],
        num_encoder_tokens: int,
        total_computed_tokens: int,
        num_tokens_main_model: int,
        apply_admission_cap: bool = False,
    ) -> int:
        """Blocks that must be free so that the request can have slots in all groups."""
        needed = 0
        for manager, computed in zip(self.single_type_managers, new_computed_blocks, strict=True):
            if isinstance(manager, CrossAttentionManager):
                needed += manager.get_num_blocks_to_allocate(
                    request_id, num_encoder_tokens, NO_IDS, 0, num_encoder_tokens,
                    apply_admission_cap,
                )  # fmt: skip
            else:
                needed += manager.get_num_blocks_to_allocate(
                    request_id, num_tokens, computed, total_computed_tokens,
                    num_tokens_main_model, apply_admission_cap,
                )  # fmt: skip
        return needed

    def allocate_new_computed_blocks(
        self,
        request_id: str,
        new_computed_blocks: Sequence[Blocks],
        num_local_computed_tokens: int,
        num_external_computed_tokens: int,
    ) -> None:
        """Give a request its hits and blocks for externally computed tokens, group by group."""
        for manager, computed in zip(self.single_type_managers, new_computed_blocks, strict=True):
            manager.allocate_new_computed_blocks(
                request_id, computed, num_local_computed_tokens, num_external_computed_tokens
            )

    def allocate_new_blocks(
        self,
        request_id: str,
        num_tokens: int,
        num_tokens_main_model: int,
        num_encoder_tokens: int = 0,
    ) -> tuple[BlockList, ...]:
        """Give a request blocks until it has its slots in all groups; returns the new ones."""
        return tuple(
            manager.allocate_new_blocks(request_id, num_encoder_tokens, num_encoder_tokens)
            if isinstance(manager, CrossAttentionManager)
            else manager.allocate_new_blocks(request_id, num_tokens, num_tokens_main_model)
            for manager in self.single_type_managers
        )

    def cache_blocks(self, request: Any, num_computed_tokens: int) -> None:
        """Make the full blocks of the first `num_computed_tokens` tokens reusable."""
        for manager in self.single_type_managers:
            manager.cache_blocks(request, num_computed_tokens, self.retention_interval)

    def free(self, request_id: str) -> None:
        """Give back all blocks of a request."""
        for manager in self.single_type_managers:
            manager.free(request_id)

    def get_num_common_prefix_blocks(self, running_request_id: str) -> list[int]:
        """Per group, leading blocks that all requests share."""
        return [
            manager.get_num_common_prefix_blocks(running_request_id)
            for manager in self.single_type_managers
        ]

    def remove_skipped_blocks(self, request_id: str, total_computed_tokens: int) -> None:
        """Give back the blocks that no later token attends to."""
        for manager in self.single_type_managers:
            manager.remove_skipped_blocks(request_id, total_computed_tokens)

    def get_blocks(self, request_id: str) -> tuple[Sequence[KVCacheBlock], ...]:
        """Blocks of a request per group; live lists, empty for an unknown request."""
        return tuple(
            manager.req_to_blocks.get(request_id) or [] for manager in self.single_type_managers
        )

    def new_step_starts(self) -> None:
        """A new scheduler step begins."""
        for manager in self.single_type_managers:
            manager.new_step_starts()


class KVCacheCoordinatorNoPrefixCache(KVCacheCoordinator):
    """Any number of groups, no reuse (fact 44)."""

    def get_num_common_prefix_blocks(self, running_request_id: str) -> list[int]:
        return [0] * len(self.single_type_managers)

    def find_longest_cache_hit(
        self, block_hashes: Sequence[BlockHash], max_cache_hit_length: int
    ) -> Hits:
        return tuple([] for _ in self.single_type_managers), 0


class UnitaryKVCacheCoordinator(KVCacheCoordinator):
    """One group: its hit is the hit."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.block_size = self.single_type_managers[0].block_size
        if self.hash_block_size != self.block_size:
            raise ConfigError(
                f"with one group, hash_block_size {self.hash_block_size} must equal the block "
                f"size {self.block_size} (spec block size times context-parallel ranks)"
            )

    def find_longest_cache_hit(
        self, block_hashes: Sequence[BlockHash], max_cache_hit_length: int
    ) -> Hits:
        manager = self.single_type_managers[0]
        blocks = manager.find_longest_cache_hit(
            block_hashes,
            max_cache_hit_length,
            [0],
            self.block_pool,
            manager.kv_cache_spec,
            0 in self.eagle_group_ids,
            self.block_size,
            self.dcp_world_size,
            self.pcp_world_size,
        )
        return blocks, len(blocks[0]) * self.block_size


@dataclass
class SpecGroup:
    """Groups of equal spec: they are looked up together."""

    spec: KVCacheSpec
    manager: type[SingleTypeKVCacheManager]
    group_ids: list[int]
    stride: int
    eagle: bool

    @property
    def is_full(self) -> bool:
        return isinstance(self.spec, FullAttentionSpec)


class HybridKVCacheCoordinator(KVCacheCoordinator):
    """Groups of several kinds: the longest hit that suits all of them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.dcp_world_size != 1 or self.pcp_world_size != 1:
            raise ConfigError("several kinds of cache groups work without context parallelism only")
        self.spec_groups: list[SpecGroup] = []
        for i, group in enumerate(self.kv_cache_config.kv_cache_groups):
            spec = layer_spec(group.kv_cache_spec)
            stride, rest = divmod(spec.block_size, self.hash_block_size)
            if rest:
                raise ConfigError(
                    f"block_size {spec.block_size} of group {i} is no multiple of "
                    f"hash_block_size {self.hash_block_size}"
                )
            same = next((known for known in self.spec_groups if known.spec == spec), None)
            if same is None:
                same = SpecGroup(spec, manager_class(spec), [], stride, False)
                self.spec_groups.append(same)
            same.group_ids.append(i)
            same.eagle |= i in self.eagle_group_ids
        if len(self.spec_groups) < 2:
            raise ConfigError("all groups have the same spec: put their layers into one group")
        # Full attention first: it never hits less in a shorter prefix, so it need not be asked again.
        self.spec_groups.sort(key=lambda group: not group.is_full)
        for same in self.spec_groups:
            for i in same.group_ids:
                # Siblings are looked up together, so they must keep the same blocks.
                self.single_type_managers[i].use_eagle = same.eagle

    def cache_blocks(self, request: Any, num_computed_tokens: int) -> None:
        size = self.scheduler_block_size
        aligned = num_computed_tokens // size * size
        for manager in self.single_type_managers:
            num_tokens = aligned
            if manager.use_eagle and aligned > 0:
                # The block behind the aligned end, which EAGLE drops when it looks up (fact 47).
                num_tokens = min(num_computed_tokens, aligned + manager.block_size)
            manager.cache_blocks(request, num_tokens, self.retention_interval)

    def find_longest_cache_hit(
        self, block_hashes: Sequence[BlockHash], max_cache_hit_length: int
    ) -> Hits:
        """A fixed point: each kind in turn shortens the hit until none does (fact 46)."""
        groups = self.spec_groups
        found: list[tuple[BlockList, ...] | None] = [None] * len(groups)
        verified: set[int] = set()
        one_pass = len(groups) == 2 and groups[0].is_full
        hit = max_cache_hit_length
        while True:
            current = hit
            for place, group in enumerate(groups):
                size = group.spec.block_size
                if group.is_full and found[place] is not None:
                    current = current // size * size
                    continue
                drop = group.eagle and place not in verified
                # The dropped block lies behind the hit that is being verified.
                length = min(current + size, max_cache_hit_length) if drop else current
                blocks = group.manager.find_longest_cache_hit(
                    block_hashes,
                    length,
                    group.group_ids,
                    self.block_pool,
                    group.spec,
                    drop,
                    self.scheduler_block_size,
                    stride=group.stride,
                )
                found[place] = blocks
                new = len(blocks[0]) * size
                if drop:
                    verified.add(place)
                elif new < current:
                    verified.clear()
                current = new
            if current >= hit:
                break
            hit = current
            if one_pass:
                break
        result: list[Sequence[KVCacheBlock]] = [[]] * len(self.single_type_managers)
        for place, group in enumerate(groups):
            for i, blocks_of_group in zip(
                group.group_ids, cast(tuple[BlockList, ...], found[place]), strict=True
            ):
                if place == 0 and group.is_full:
                    blocks_of_group = blocks_of_group[: hit // group.spec.block_size]
                result[i] = blocks_of_group
        return tuple(result), hit


def get_kv_cache_coordinator(
    kv_cache_config: KVCacheConfig, *, enable_caching: bool, **kwargs: Any
) -> KVCacheCoordinator:
    """The coordinator for a configuration: none, one or several groups that reuse blocks."""
    kind: type[KVCacheCoordinator]
    if not enable_caching:
        kind = KVCacheCoordinatorNoPrefixCache
    elif len(kv_cache_config.kv_cache_groups) == 1:
        kind = UnitaryKVCacheCoordinator
    else:
        kind = HybridKVCacheCoordinator
    return kind(kv_cache_config, enable_caching=enable_caching, **kwargs)
