"""kvgpu: a KV-cache manager for LLM engines, with its prefix-cache index in arrays.

Names are imported when first used, so that ``import kvgpu`` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kvgpu.batch.manager import BatchManager
    from kvgpu.batch.queries import BatchQueries
    from kvgpu.block_hash_table import BlockHashTable
    from kvgpu.block_hashes import BlockHashes
    from kvgpu.block_hashing.hasher import get_request_block_hasher
    from kvgpu.block_hashing.kvgpu128 import Kvgpu128
    from kvgpu.block_map import BlockHashToBlockMap
    from kvgpu.block_pool import BlockPool
    from kvgpu.block_sizes import resolve_kv_cache_block_sizes
    from kvgpu.blocks import KVCacheBlock
    from kvgpu.errors import KVGPUError
    from kvgpu.free_queue import FreeKVCacheBlockQueue
    from kvgpu.hashing import get_hash_fn_by_name, init_none_hash
    from kvgpu.kv_cache_blocks import KVCacheBlocks
    from kvgpu.manager import KVCacheManager
    from kvgpu.metrics import CachingMetrics, KVCacheMetricsCollector, PrefixCacheStats
    from kvgpu.plan import HitQuery, HitRule, PrefixPlan
    from kvgpu.request import Request
    from kvgpu.specs import (
        ChunkedLocalAttentionSpec,
        CrossAttentionSpec,
        FullAttentionSpec,
        KVCacheConfig,
        KVCacheGroupSpec,
        MambaSpec,
        MLAAttentionSpec,
        SinkFullAttentionSpec,
        SlidingWindowMLASpec,
        SlidingWindowSpec,
    )

__version__ = "0.1.0"

_HOMES = {
    "batch.manager": ["BatchManager"],
    "batch.queries": ["BatchQueries"],
    "block_hashes": ["BlockHashes"],
    "block_hashing.hasher": ["get_request_block_hasher"],
    "block_hashing.kvgpu128": ["Kvgpu128"],
    "block_hash_table": ["BlockHashTable"],
    "block_map": ["BlockHashToBlockMap"],
    "block_pool": ["BlockPool"],
    "block_sizes": ["resolve_kv_cache_block_sizes"],
    "blocks": ["KVCacheBlock"],
    "errors": ["KVGPUError"],
    "free_queue": ["FreeKVCacheBlockQueue"],
    "hashing": ["get_hash_fn_by_name", "init_none_hash"],
    "kv_cache_blocks": ["KVCacheBlocks"],
    "manager": ["KVCacheManager"],
    "metrics": ["CachingMetrics", "KVCacheMetricsCollector", "PrefixCacheStats"],
    "plan": ["HitQuery", "HitRule", "PrefixPlan"],
    "request": ["Request"],
    "specs": [
        "ChunkedLocalAttentionSpec",
        "CrossAttentionSpec",
        "FullAttentionSpec",
        "KVCacheConfig",
        "KVCacheGroupSpec",
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
    "CachingMetrics",
    "ChunkedLocalAttentionSpec",
    "CrossAttentionSpec",
    "FreeKVCacheBlockQueue",
    "FullAttentionSpec",
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
