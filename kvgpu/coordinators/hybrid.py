"""The coordinator of models with several kinds of cache groups."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kvgpu.blocks.block_list import BlockList
from kvgpu.blocks.state import KVCacheBlock
from kvgpu.compiled.jit import python_of
from kvgpu.config.specs import FullAttentionSpec, KVCacheSpec
from kvgpu.coordinators.base import Hits, KVCacheCoordinator
from kvgpu.errors import ConfigError
from kvgpu.groups.base import SingleTypeKVCacheManager
from kvgpu.groups.registry import layer_spec, manager_class
from kvgpu.hashing.functions import BlockHash
from kvgpu.rules import allocation as rules
from kvgpu.rules.plan import HitQuery, PrefixPlan

_cacheable_tokens = python_of(rules.cacheable_tokens)


@dataclass
class SpecGroup:
    """Groups of equal spec, which are looked up together."""

    spec: KVCacheSpec
    manager: type[SingleTypeKVCacheManager]
    group_ids: list[int]
    stride: int
    eagle: bool

    @property
    def is_full(self) -> bool:
        return isinstance(self.spec, FullAttentionSpec)

    def query(self, alignment: int) -> HitQuery:
        """Return what to look up in these groups."""
        return self.manager.hit_query(self.spec, self.group_ids, alignment, self.eagle, stride=self.stride)


class HybridKVCacheCoordinator(KVCacheCoordinator):
    """Serves groups of several kinds, and finds the longest hit that suits all of them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.dcp_world_size != 1 or self.pcp_world_size != 1:
            raise ConfigError("several kinds of cache groups do not support context parallelism")
        self.spec_groups: list[SpecGroup] = []
        for i, group in enumerate(self.kv_cache_config.kv_cache_groups):
            spec = layer_spec(group.kv_cache_spec)
            stride, rest = divmod(spec.block_size, self.hash_block_size)
            if rest:
                raise ConfigError(
                    f"block_size {spec.block_size} of group {i} is not a multiple of "
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
        # Full attention comes first: any prefix of its hit is also a hit, so it need not be looked up again.
        self.spec_groups.sort(key=lambda group: not group.is_full)
        self.plan = PrefixPlan(tuple(same.query(self.scheduler_block_size) for same in self.spec_groups))
        for same in self.spec_groups:
            for i in same.group_ids:
                # Groups of equal spec are looked up together, so they must cache the same blocks.
                self.single_type_managers[i].use_eagle = same.eagle

    @property
    def caching_alignment(self) -> int:
        return self.scheduler_block_size

    def cache_blocks(self, request: Any, num_computed_tokens: int) -> None:
        for manager in self.single_type_managers:
            num_tokens = _cacheable_tokens(
                num_computed_tokens, self.scheduler_block_size, manager.use_eagle, manager.block_size
            )
            manager.cache_blocks(request, num_tokens, self.retention_interval)

    def find_longest_cache_hit(self, block_hashes: Sequence[BlockHash], max_cache_hit_length: int) -> Hits:
        num_tokens, lines = self.block_pool.prefix_cache.find_hits(self.plan, block_hashes, max_cache_hit_length)
        result: list[Sequence[KVCacheBlock]] = [[]] * len(self.single_type_managers)
        for group, ids in zip(self.plan.groups, lines, strict=True):
            result[group] = BlockList(self.block_pool.state, ids)
        return tuple(result), num_tokens
