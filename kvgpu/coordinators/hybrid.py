"""The coordinator of models with several kinds of cache groups."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kvgpu.blocks.block_list import BlockList
from kvgpu.blocks.state import KVCacheBlock
from kvgpu.config.block_sizes import ends_inside_blocks
from kvgpu.config.specs import FullAttentionSpec, KVCacheSpec
from kvgpu.coordinators.base import Hits, KVCacheCoordinator
from kvgpu.errors import ConfigError
from kvgpu.groups.base import SingleTypeKVCacheManager
from kvgpu.groups.registry import layer_spec
from kvgpu.hashing.functions import BlockHash
from kvgpu.rules.plan import HitQuery, PrefixPlan


@dataclass
class SpecGroup:
    """Groups of equal spec, which are looked up together."""

    spec: KVCacheSpec
    manager: SingleTypeKVCacheManager
    """Of the first group."""
    group_ids: list[int]
    stride: int
    eagle: bool

    @property
    def is_full(self) -> bool:
        return isinstance(self.spec, FullAttentionSpec)

    def query(self, alignment: int) -> HitQuery:
        """Return what to look up in these groups."""
        ranks = self.manager.block_size // self.spec.block_size
        return self.manager.hit_query(self.spec, self.group_ids, alignment, self.eagle, ranks, self.stride)


class HybridKVCacheCoordinator(KVCacheCoordinator):
    """Serves groups of several kinds, and finds the longest hit that suits all of them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        behaviour = self.behaviour
        if (self.dcp_world_size != 1 or self.pcp_world_size != 1) and not behaviour.shares_by_spec:
            raise ConfigError("several kinds of cache groups do not support context parallelism")
        self.spec_groups: list[SpecGroup] = []
        for i, group in enumerate(self.kv_cache_config.kv_cache_groups):
            spec, manager = layer_spec(group.kv_cache_spec), self.single_type_managers[i]
            if behaviour.keeps_boundaries and not group.kv_cache_spec.prefix_cacheable:
                continue
            stride, rest = divmod(manager.block_size, self.hash_block_size)
            if rest:
                raise ConfigError(
                    f"block_size {manager.block_size} of group {i} is not a multiple of "
                    f"hash_block_size {self.hash_block_size}"
                )
            same = next((known for known in self.spec_groups if known.spec == spec), None)
            if same is None:
                same = SpecGroup(spec, manager, [], stride, False)
                self.spec_groups.append(same)
            same.group_ids.append(i)
            same.eagle |= i in self.drop_eagle_group_ids
        if len(self.spec_groups) < (1 if behaviour.shares_by_spec else 2):
            raise ConfigError("all groups have the same spec: put their layers into one group")
        # Where hits may end inside a block, they end with any hash block.
        self.enable_partial_hash_hits = behaviour.keeps_inside and ends_inside_blocks(
            self.kv_cache_config.kv_cache_groups, self.hash_block_size, self.dcp_world_size
        )
        alignment = self.hash_block_size if self.enable_partial_hash_hits else self.scheduler_block_size
        for single in self.single_type_managers:
            single.cache_hit_alignment_tokens = alignment
        # Full attention comes first: any prefix of its hit is also a hit, so it need not be looked up again.
        self.spec_groups.sort(key=lambda group: not group.is_full)
        self.plan = PrefixPlan(tuple(same.query(alignment) for same in self.spec_groups), behaviour.looks_beyond_limit)
        for same in self.spec_groups:
            for i in same.group_ids:
                # Groups of equal spec are looked up together, so they must cache the same blocks.
                self.single_type_managers[i].use_eagle = same.eagle

        self._plans = [PrefixPlan((query,), behaviour.looks_beyond_limit) for query in self.plan.queries]

    @property
    def full_attention_group_id(self) -> int | None:
        first = self.spec_groups[0]
        return first.group_ids[0] if first.is_full else None

    def find_longest_cache_hit_per_group(
        self, block_hashes: Sequence[BlockHash], max_cache_hit_length: int
    ) -> tuple[tuple[Sequence[KVCacheBlock], ...], tuple[int, ...]]:
        cache, state = self.block_pool.prefix_cache, self.block_pool.state
        blocks: list[Sequence[KVCacheBlock]] = [[]] * len(self.single_type_managers)
        lengths = [0] * len(self.single_type_managers)
        for plan in self._plans:
            num_tokens, lines, _ = cache.find_hits(plan, block_hashes, max_cache_hit_length)
            for group, ids in zip(plan.groups, lines, strict=True):
                blocks[group], lengths[group] = BlockList(state, ids), num_tokens
        return tuple(blocks), tuple(lengths)

    @property
    def caching_alignment(self) -> int:
        return 1 if self.enable_partial_hash_hits else self.scheduler_block_size

    def find_hits(self, block_hashes: Sequence[BlockHash], max_cache_hit_length: int) -> Hits:
        num_tokens, lines, furthest = self.block_pool.prefix_cache.find_hits(
            self.plan, block_hashes, max_cache_hit_length
        )
        result: list[Sequence[KVCacheBlock]] = [[]] * len(self.single_type_managers)
        for group, ids in zip(self.plan.groups, lines, strict=True):
            result[group] = BlockList(self.block_pool.state, ids)
        return tuple(result), num_tokens, furthest
