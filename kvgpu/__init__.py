"""kvgpu: a KV-cache manager for LLM engines, with its prefix-cache index in arrays.

Names are imported when first used, so that ``import kvgpu`` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kvgpu.batch.manager import BatchManager
    from kvgpu.batch.queries import BatchQueries
    from kvgpu.block_pool import BlockPool
    from kvgpu.blocks.free_queue import FreeKVCacheBlockQueue
    from kvgpu.blocks.kv_cache_blocks import KVCacheBlocks
    from kvgpu.blocks.state import KVCacheBlock
    from kvgpu.config.block_sizes import resolve_kv_cache_block_sizes
    from kvgpu.config.kv_cache_config import KVCacheConfig, KVCacheGroupSpec
    from kvgpu.config.specs import (
        ChunkedLocalAttentionSpec,
        CrossAttentionSpec,
        FullAttentionSpec,
        MambaSpec,
        MLAAttentionSpec,
        SinkFullAttentionSpec,
        SlidingWindowMLASpec,
        SlidingWindowSpec,
    )
    from kvgpu.device.block_hash_table import BlockHashTable
    from kvgpu.errors import KVGPUError
    from kvgpu.hashing.block_hashes import BlockHashes
    from kvgpu.hashing.functions import get_hash_fn_by_name, init_none_hash
    from kvgpu.hashing.kvgpu128.function import Kvgpu128
    from kvgpu.hashing.request_hasher import get_request_block_hasher
    from kvgpu.index.block_map import BlockHashToBlockMap
    from kvgpu.manager import KVCacheManager
    from kvgpu.metrics import CachingMetrics, KVCacheMetricsCollector, PrefixCacheStats
    from kvgpu.request import Request
    from kvgpu.rules.plan import HitQuery, HitRule, PrefixPlan

__version__ = "0.1.0"

_HOMES = {
    "batch.manager": ["BatchManager"],
    "batch.queries": ["BatchQueries"],
    "hashing.block_hashes": ["BlockHashes"],
    "hashing.request_hasher": ["get_request_block_hasher"],
    "hashing.kvgpu128.function": ["Kvgpu128"],
    "device.block_hash_table": ["BlockHashTable"],
    "index.block_map": ["BlockHashToBlockMap"],
    "block_pool": ["BlockPool"],
    "config.block_sizes": ["resolve_kv_cache_block_sizes"],
    "blocks.state": ["KVCacheBlock"],
    "errors": ["KVGPUError"],
    "blocks.free_queue": ["FreeKVCacheBlockQueue"],
    "hashing.functions": ["get_hash_fn_by_name", "init_none_hash"],
    "blocks.kv_cache_blocks": ["KVCacheBlocks"],
    "manager": ["KVCacheManager"],
    "metrics": ["CachingMetrics", "KVCacheMetricsCollector", "PrefixCacheStats"],
    "rules.plan": ["HitQuery", "HitRule", "PrefixPlan"],
    "request": ["Request"],
    "config.cache_hints": ["CacheHints", "HintLimits"],
    "config.kv_cache_config": ["KVCacheConfig", "KVCacheGroupSpec"],
    "config.specs": [
        "ChunkedLocalAttentionSpec",
        "CrossAttentionSpec",
        "FullAttentionSpec",
        "MLAAttentionSpec",
        "MambaSpec",
        "SinkFullAttentionSpec",
        "SlidingWindowMLASpec",
        "SlidingWindowSpec",
    ],
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "BatchManager",
    "BatchQueries",
    "BlockHashTable",
    "BlockHashToBlockMap",
    "BlockHashes",
    "BlockPool",
    "CacheHints",
    "CachingMetrics",
    "ChunkedLocalAttentionSpec",
    "CrossAttentionSpec",
    "FreeKVCacheBlockQueue",
    "FullAttentionSpec",
    "HintLimits",
    "HitQuery",
    "HitRule",
    "KVCacheBlock",
    "KVCacheBlocks",
    "KVCacheConfig",
    "KVCacheGroupSpec",
    "KVCacheManager",
    "KVCacheMetricsCollector",
    "KVGPUError",
    "Kvgpu128",
    "MLAAttentionSpec",
    "MambaSpec",
    "PrefixCacheStats",
    "PrefixPlan",
    "Request",
    "SinkFullAttentionSpec",
    "SlidingWindowMLASpec",
    "SlidingWindowSpec",
    "__version__",
    "get_hash_fn_by_name",
    "get_request_block_hasher",
    "init_none_hash",
    "resolve_kv_cache_block_sizes",
]


def __getattr__(name: str) -> Any:
    try:
        home = _HOME_OF[name]
    except KeyError:
        raise AttributeError(f"module 'kvgpu' has no attribute {name!r}") from None
    return getattr(importlib.import_module(f"kvgpu.{home}"), name)


def __dir__() -> list[str]:
    return __all__
