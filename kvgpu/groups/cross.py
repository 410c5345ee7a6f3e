"""Cross attention of encoder-decoder models."""

from collections.abc import Sequence
from typing import Any

from kvgpu.block_pool import BlockPool
from kvgpu.blocks.block_list import BlockList
from kvgpu.config.specs import KVCacheSpec
from kvgpu.errors import ArgumentError
from kvgpu.groups.base import Blocks, SingleTypeKVCacheManager
from kvgpu.hashing.functions import BlockHash


class CrossAttentionManager(SingleTypeKVCacheManager):
    """Manages the blocks of the encoder's tokens, which are allocated once and never shared between requests."""

    def take_computed_blocks(
        self,
        request_id: str,
        new_computed_blocks: Blocks,
        num_local_computed_tokens: int,
        num_external_computed_tokens: int,
    ) -> int:
        if len(new_computed_blocks):
            raise ArgumentError("cross attention has no prefix cache: it cannot take hits")
        return 0

    def covered_until(self, request_id: str, num_computed_tokens: int) -> int:
        return 0

    def cache_blocks(self, request: Any, num_tokens: int, retention_interval: int | None = None) -> None:
        raise ArgumentError("cross attention has no prefix cache: turn prefix caching off")

    @classmethod
    def find_longest_cache_hit(
        cls,
        block_hashes: Sequence[BlockHash],
        max_length: int,
        kv_cache_group_ids: list[int],
        block_pool: BlockPool,
        kv_cache_spec: KVCacheSpec,
        drop_eagle_block: bool,
        alignment_tokens: int,
        dcp_world_size: int = 1,
        pcp_world_size: int = 1,
        *,
        stride: int = 1,
    ) -> tuple[BlockList, ...]:
        raise NotImplementedError("cross attention has no prefix cache: turn prefix caching off")
