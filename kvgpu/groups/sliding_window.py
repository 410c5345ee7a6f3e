"""Sliding-window attention."""

from typing import Any, cast

from kvgpu.config.specs import KVCacheSpec, SlidingWindowSpec
from kvgpu.groups.base import SingleTypeKVCacheManager
from kvgpu.rules.plan import HitRule
from kvgpu.rules.plan_words import SLIDING_WINDOW
from kvgpu.rules.retention import Mask, Retention, mask_rule, window_blocks


class SlidingWindowManager(SingleTypeKVCacheManager):
    """Manages groups in which a token attends to the last window only.

    Blocks before the window are given back while the request runs.
    """

    rule_kind = SLIDING_WINDOW

    def __init__(self, kv_cache_spec: SlidingWindowSpec, *args: Any, **kwargs: Any) -> None:
        super().__init__(kv_cache_spec, *args, **kwargs)
        self.sliding_window = kv_cache_spec.sliding_window
        self.extent = self.sliding_window + kv_cache_spec.extra_retained_tokens  # (B56)
        self.splits_freed_blocks = True

    @classmethod
    def hit_rule(cls, spec: KVCacheSpec, block_size: int, alignment: int, drop: bool) -> HitRule:
        need = window_blocks(cast(SlidingWindowSpec, spec), eagle=False)
        return HitRule(cls.rule_kind, block_size, alignment, drop, need)

    @classmethod
    def mask_of_spec(cls, spec: KVCacheSpec, kept: Retention) -> Mask | None:
        return mask_rule(cast(SlidingWindowSpec, spec), kept.alignment, kept.eagle, kept.interval, kept.ends)
