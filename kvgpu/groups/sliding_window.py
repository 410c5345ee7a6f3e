"""Sliding-window attention."""

from typing import Any, cast

import numpy as np
import numpy.typing as npt

from kvgpu.blocks.record import Ids
from kvgpu.config.specs import KVCacheSpec, SlidingWindowSpec
from kvgpu.groups.base import SingleTypeKVCacheManager
from kvgpu.rules.plan import HitRule
from kvgpu.rules.plan_words import SLIDING_WINDOW
from kvgpu.rules.retention import Mask, mask_rule, sliding_window_mask, window_blocks


class SlidingWindowManager(SingleTypeKVCacheManager):
    """Manages groups in which a token attends to the last window only.

    Blocks before the window are given back while the request runs.
    """

    rule_kind = SLIDING_WINDOW

    def __init__(self, kv_cache_spec: SlidingWindowSpec, *args: Any, **kwargs: Any) -> None:
        super().__init__(kv_cache_spec, *args, **kwargs)
        self.sliding_window = self.extent = kv_cache_spec.sliding_window

    @classmethod
    def hit_rule(cls, spec: KVCacheSpec, block_size: int, alignment: int, drop: bool) -> HitRule:
        need = window_blocks(cast(SlidingWindowSpec, spec), eagle=False)
        return HitRule(cls.rule_kind, block_size, alignment, drop, need)

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
        return sliding_window_mask(
            start_block,
            end_block,
            cast(SlidingWindowSpec, kv_cache_spec),
            alignment_tokens,
            use_eagle,
            retention_interval,
            num_prompt_tokens,
        )

    def mask_rule(self, retention_interval: int | None) -> Mask | None:
        spec = cast(SlidingWindowSpec, self.kv_cache_spec)
        return mask_rule(spec, self.scheduler_block_size, self.use_eagle, retention_interval)

    def _give_back(self, ids: Ids) -> None:
        """Give blocks back so that those that were never cached are reused before all cached ones."""
        self.block_pool.allocator.give_back_by_hash(ids)
