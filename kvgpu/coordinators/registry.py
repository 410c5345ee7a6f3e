"""Which coordinator serves which configuration."""

from typing import Any

from kvgpu.coordinators.base import KVCacheCoordinator
from kvgpu.coordinators.hybrid import HybridKVCacheCoordinator
from kvgpu.coordinators.unitary import KVCacheCoordinatorNoPrefixCache, UnitaryKVCacheCoordinator
from kvgpu.specs import KVCacheConfig


def get_kv_cache_coordinator(
    kv_cache_config: KVCacheConfig, *, enable_caching: bool, **kwargs: Any
) -> KVCacheCoordinator:
    """The coordinator for a configuration: none, one or several groups that reuse blocks."""
    kind: type[KVCacheCoordinator]
    if not enable_caching:
        kind = KVCacheCoordinatorNoPrefixCache
    elif len(kv_cache_config.kv_cache_groups) == 1:
        kind = UnitaryKVCacheCoordinator
    else:
        kind = HybridKVCacheCoordinator
    return kind(kv_cache_config, enable_caching=enable_caching, **kwargs)
