"""What one kind of attention counts as a hit, and which blocks a later hit could need."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from kvgpu.block_pool import BlockPool
from kvgpu.blocks.block_list import BlockList
from kvgpu.errors import ConfigError
from kvgpu.hashing.functions import BlockHash
from kvgpu.rules.plan import HitQuery, HitRule, PrefixPlan
from kvgpu.rules.plan_words import FULL
from kvgpu.specs import KVCacheSpec


class GroupHits:
    """The part of a group's manager that depends on its spec only, not on any request."""

    rule_kind: ClassVar[int] = FULL
    supports_context_parallel: ClassVar[bool] = False

    @classmethod
    def hit_rule(cls, spec: KVCacheSpec, block_size: int, alignment: int, drop: bool) -> HitRule:
        """The rule that decides what counts as a hit in groups of this spec."""
        return HitRule(cls.rule_kind, block_size, alignment, drop)

    @classmethod
    def hit_query(
        cls, spec: KVCacheSpec, group_ids: Sequence[int], alignment: int, drop: bool, ranks: int = 1, stride: int = 1
    ) -> HitQuery:
        """What to look up for a request in groups of this spec.

        Args:
            spec: Their spec.
            group_ids: The groups.
            alignment: The hit is a multiple of so many tokens.
            drop: Leave out the last block, which EAGLE computes again.
            ranks: Ranks of context parallelism that share a block.
            stride: Number of hashes in one block.

        Raises:
            ConfigError: Context parallelism where the kind of attention does not allow it.
        """
        if ranks > 1 and not cls.supports_context_parallel:
            raise ConfigError(f"{cls.__name__} works without context parallelism only")
        rule = cls.hit_rule(spec, spec.block_size * ranks, alignment, drop)
        return HitQuery(rule, tuple(group_ids), stride)

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
        """Longest prefix cached in all the groups, which have equal specs.

        Args:
            block_hashes: Hashes of the request.
            max_length: Longest hit allowed, in tokens.
            kv_cache_group_ids: The groups.
            block_pool: Where they are cached.
            kv_cache_spec: Their spec.
            drop_eagle_block: Leave out the last block, which EAGLE computes again.
            alignment_tokens: The hit is a multiple of so many tokens.
            dcp_world_size: Decode context parallelism.
            pcp_world_size: Prefill context parallelism.
            stride: Number of hashes in one block.

        Returns:
            One list of equal length per group; null blocks where none is needed.

        Raises:
            ConfigError: Context parallelism where the kind of attention does not allow it.
        """
        query = cls.hit_query(
            kv_cache_spec,
            kv_cache_group_ids,
            alignment_tokens,
            drop_eagle_block,
            dcp_world_size * pcp_world_size,
            stride,
        )
        _, lines = block_pool.prefix_cache.find_hits(PrefixPlan((query,)), block_hashes, max_length)
        return tuple(BlockList(block_pool.state, ids) for ids in lines)

    @classmethod
    def reachable_block_mask(
        cls,
        start_block: int,
        end_block: int,
        alignment_tokens: int | None,
        kv_cache_spec: KVCacheSpec,
        use_eagle: bool,
        retention_interval: int | None = None,
        num_prompt_tokens: int | None = None,
    ) -> npt.NDArray[np.bool_] | None:
        """Which blocks of [start_block, end_block) a later hit could need; None for all."""
        return None
