"""Which coordinator serves which configuration."""

from typing import Any

from kvgpu.config.kv_cache_config import KVCacheConfig
from kvgpu.config.specs import CrossAttentionSpec
from kvgpu.coordinators.base import KVCacheCoordinator
from kvgpu.coordinators.hybrid import HybridKVCacheCoordinator
from kvgpu.coordinators.unitary import KVCacheCoordinatorNoPrefixCache, UnitaryKVCacheCoordinator
from kvgpu.errors import ConfigError
from kvgpu.integers import as_option


def get_kv_cache_coordinator(
    kv_cache_config: KVCacheConfig, *, enable_caching: bool, **kwargs: Any
) -> KVCacheCoordinator:
    """Make the coordinator for a configuration in which no group, one group or several groups reuse blocks.

    Raises:
        ConfigError: The configuration cannot work.
    """
    try:
        groups = list(kv_cache_config.kv_cache_groups)
        specs = [group.kv_cache_spec for group in groups]
        for group in groups:
            as_option("is_eagle_group", group.is_eagle_group)
    except (AttributeError, TypeError) as error:
        raise ConfigError(f"a KVCacheConfig with groups is expected: {error}") from None
    if enable_caching and any(isinstance(spec, CrossAttentionSpec) for spec in specs):
        raise ConfigError("cross attention has no prefix cache: turn prefix caching off")
    kind: type[KVCacheCoordinator]
    if not enable_caching:
        kind = KVCacheCoordinatorNoPrefixCache
    elif len(groups) == 1:
        kind = UnitaryKVCacheCoordinator
    else:
        kind = HybridKVCacheCoordinator
    return kind(kv_cache_config, enable_caching=enable_caching, **kwargs)
