"""Coordinators whose groups need not agree on a hit: there is no reuse, or a single group."""

from collections.abc import Sequence
from typing import Any

from kvgpu.blocks.block_list import BlockList
from kvgpu.coordinators.base import Hits, KVCacheCoordinator
from kvgpu.errors import ConfigError
from kvgpu.hashing.functions import BlockHash
from kvgpu.rules.plan import PrefixPlan


class KVCacheCoordinatorNoPrefixCache(KVCacheCoordinator):
    """Serves any number of groups without reuse (fact 44)."""

    def get_num_common_prefix_blocks(self, running_request_id: str) -> list[int]:
        return [0] * len(self.single_type_managers)

    def find_hits(self, block_hashes: Sequence[BlockHash], max_cache_hit_length: int) -> Hits:
        return tuple([] for _ in self.single_type_managers), 0, 0


class UnitaryKVCacheCoordinator(KVCacheCoordinator):
    """Serves a single group: its hit is the hit of the model."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        manager = self.single_type_managers[0]
        self.block_size = manager.block_size
        if self.hash_block_size != self.block_size:
            raise ConfigError(
                f"with one group, hash_block_size {self.hash_block_size} must equal the block "
                f"size {self.block_size} (spec block size times context-parallel ranks)"
            )
        query = manager.hit_query(
            manager.kv_cache_spec,
            [0],
            self.block_size,
            0 in self.drop_eagle_group_ids,
            self.block_size // manager.kv_cache_spec.block_size,
        )
        self.plan = PrefixPlan((query,))

    def find_hits(self, block_hashes: Sequence[BlockHash], max_cache_hit_length: int) -> Hits:
        num_tokens, lines, _ = self.block_pool.prefix_cache.find_hits(self.plan, block_hashes, max_cache_hit_length)
        # There is no other group that could have cached more.
        return (BlockList(self.block_pool.state, lines[0]),), num_tokens, num_tokens
