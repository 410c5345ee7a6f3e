"""What counts as a hit for one kind of attention, and which blocks a later hit could need."""

from collections.abc import Sequence
from typing import ClassVar

from kvgpu.block_pool import BlockPool
from kvgpu.blocks.block_list import BlockList
from kvgpu.config.specs import KVCacheSpec
from kvgpu.errors import ConfigError
from kvgpu.hashing.functions import BlockHash
from kvgpu.rules.plan import HitQuery, HitRule, PrefixPlan
from kvgpu.rules.plan_words import FULL
from kvgpu.rules.retention import DROP, NO_DROP, RESEND, Mask, Retention, masked, positions_of


class GroupHits:
    """The part of a group's manager that depends only on its spec, not on any request."""

    rule_kind: ClassVar[int] = FULL
    supports_context_parallel: ClassVar[bool] = False
    ends_inside: ClassVar[bool] = False
    """Whether hits can end inside a block."""

    @classmethod
    def hit_rule(cls, spec: KVCacheSpec, block_size: int, alignment: int, drop: bool) -> HitRule:
        """Return the rule that decides what counts as a hit in groups of this spec."""
        return HitRule(cls.rule_kind, block_size, alignment, drop)

    @classmethod
    def hit_query(
        cls, spec: KVCacheSpec, group_ids: Sequence[int], alignment: int, drop: bool, ranks: int = 1, stride: int = 1
    ) -> HitQuery:
        """Return what to look up for a request in groups of this spec.

        Args:
            spec: Spec of the groups.
            group_ids: Ids of the groups.
            alignment: The hit is a multiple of this number of tokens. If that is a hash block, hits of some kinds of
                attention may end inside a block.
            drop: Whether to leave out the last block, which EAGLE computes again.
            ranks: Number of context-parallel ranks that share a block.
            stride: Number of hashes in one block.

        Raises:
            ConfigError: This kind of attention does not support context parallelism.
        """
        if ranks > 1 and not cls.supports_context_parallel:
            raise ConfigError(f"{cls.__name__} does not support context parallelism")
        rule = cls.hit_rule(spec, spec.block_size * ranks, alignment, drop)
        if cls.ends_inside and alignment < rule.block_size and alignment * stride == rule.block_size:
            rule = rule._replace(unit=alignment)
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
        """Find the longest prefix that is cached in all of the groups, which have equal specs.

        Args:
            block_hashes: Hashes of the request.
            max_length: Longest hit allowed, in tokens.
            kv_cache_group_ids: Ids of the groups.
            block_pool: Pool that caches the blocks.
            kv_cache_spec: Spec of the groups.
            drop_eagle_block: Whether to leave out the last block, which EAGLE computes again.
            alignment_tokens: The hit is a multiple of this number of tokens.
            dcp_world_size: Number of ranks of decode context parallelism.
            pcp_world_size: Number of ranks of prefill context parallelism.
            stride: Number of hashes in one block.

        Returns:
            One list of blocks per group, all of equal length, with null blocks where no block is needed.

        Raises:
            ConfigError: This kind of attention does not support context parallelism.
        """
        query = cls.hit_query(
            kv_cache_spec,
            kv_cache_group_ids,
            alignment_tokens,
            drop_eagle_block,
            dcp_world_size * pcp_world_size,
            stride,
        )
        _, lines, _ = block_pool.prefix_cache.find_hits(PrefixPlan((query,)), block_hashes, max_length)
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
        *,
        reachable_boundaries: Sequence[int] | None = None,
        dcp_world_size: int = 1,
        final_segment_end_block: int | None = None,
    ) -> list[bool] | None:
        """Return which blocks of [start_block, end_block) a later hit could need; None if it could need all.

        Args:
            start_block, end_block: First block, and the one after the last.
            alignment_tokens: Hits end at multiples of this number of tokens; None for no mask.
            kv_cache_spec: Spec of the group.
            use_eagle: Whether the last block of a hit is dropped.
            retention_interval: Tokens between the hit lengths that stay reachable: None for all, 0 for none.
            num_prompt_tokens: Tokens of the prompt, in behaviour 0.23.
            reachable_boundaries: Positions at which a later request could resume, in tokens, in behaviour 0.33.
            dcp_world_size: Ranks of decode context parallelism that share a block.
            final_segment_end_block: As in `kvgpu.rules.retention.masked`.

        O(end_block - start_block).
        """
        spec = kv_cache_spec
        if dcp_world_size > 1 and spec.dcp_sharded:
            spec = spec.copy_with_new_block_size(spec.block_size * dcp_world_size)
        thins_states = reachable_boundaries is not None
        dropped = DROP if use_eagle else NO_DROP
        kept = Retention(alignment_tokens, dropped, retention_interval, RESEND, thins_states)
        rule = cls.mask_of_spec(spec, kept)
        positions = positions_of(rule, num_prompt_tokens) if reachable_boundaries is None else reachable_boundaries
        mask = masked(rule, start_block, end_block, positions, final_segment_end_block)
        return None if mask is None else mask.tolist()

    @classmethod
    def mask_of_spec(cls, spec: KVCacheSpec, kept: Retention) -> Mask | None:
        """Return the rule for which blocks of groups of this spec a later hit could need; None if it could need any.

        Args:
            spec: Of the groups.
            kept: What else decides.
        """
        return None
