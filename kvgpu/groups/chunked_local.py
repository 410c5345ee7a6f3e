"""Chunked local attention."""

from typing import Any, cast

from kvgpu.config.specs import ChunkedLocalAttentionSpec, KVCacheSpec
from kvgpu.errors import ConfigError
from kvgpu.groups.base import SingleTypeKVCacheManager
from kvgpu.rules.plan import HitRule
from kvgpu.rules.plan_words import CHUNKED_LOCAL


class ChunkedLocalAttentionManager(SingleTypeKVCacheManager):
    """Manages groups in which a token attends to its chunk only: blocks before the chunk are given back."""

    rule_kind = CHUNKED_LOCAL

    def __init__(self, kv_cache_spec: ChunkedLocalAttentionSpec, *args: Any, **kwargs: Any) -> None:
        super().__init__(kv_cache_spec, *args, **kwargs)
        self.attention_chunk_size = self.extent = kv_cache_spec.attention_chunk_size

    @classmethod
    def hit_rule(cls, spec: KVCacheSpec, block_size: int, alignment: int, drop: bool) -> HitRule:
        if drop:
            raise ConfigError("chunked local attention cannot be used with EAGLE")
        if block_size != alignment:
            raise ConfigError(
                f"chunked local attention needs hits aligned to its own block size {block_size}, "
                f"not to {alignment}: use equal block sizes in all groups"
            )
        chunk = cast(ChunkedLocalAttentionSpec, spec).attention_chunk_size
        return HitRule(cls.rule_kind, block_size, alignment, drop, chunk)
