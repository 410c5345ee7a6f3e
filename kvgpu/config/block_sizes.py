"""The block sizes that the scheduler and the hashes of a model use."""

from collections.abc import Sequence
from math import gcd, lcm, prod
from typing import Any

from kvgpu.config.kv_cache_config import KVCacheConfig, KVCacheGroupSpec, layer_specs
from kvgpu.config.specs import FullAttentionSpec, KVCacheSpec, MambaSpec
from kvgpu.errors import ConfigError
from kvgpu.integers import as_size


def resolve_kv_cache_block_sizes(kv_cache_config: KVCacheConfig, vllm_config: Any) -> tuple[int, int]:
    """Return (scheduler block size, hash block size), in tokens (fact 9).

    Args:
        kv_cache_config: Configuration with the groups.
        vllm_config: Any object with `cache_config` (`block_size`, `enable_prefix_caching`,
            optionally `hash_block_size`), `parallel_config` (`decode_context_parallel_size`,
            `prefill_context_parallel_size`) and optionally `kv_transfer_config`.

    Raises:
        ConfigError: Context parallelism is used with several groups, the hash block size does not divide every block
            size, a part is missing, or a size is not an integer, below 1 or beyond 32 bits.

    O(groups).
    """
    try:
        cache, parallel = vllm_config.cache_config, vllm_config.parallel_config
        kinds = ("decode_context_parallel_size", "prefill_context_parallel_size")
        ranks = prod(as_size(kind, getattr(parallel, kind)) for kind in kinds)
        specs = [group.kv_cache_spec for group in kv_cache_config.kv_cache_groups]
        if len(specs) <= 1:
            size = as_size("block_size", specs[0].block_size if specs else cache.block_size)
            size = as_size("tokens of a block of all ranks", size * ranks)
            return size, size
        return _of_several(specs, ranks, cache, vllm_config)
    except (AttributeError, TypeError) as error:
        raise ConfigError(f"the configuration lacks a part that is needed: {error}") from error


def has_blocks_of_several_hashes(groups: Sequence[KVCacheGroupSpec], hash_block_size: int, dcp_world_size: int) -> bool:
    """Return whether a block of full attention or of states may have several hashes, so that a prompt may end there."""
    return any(
        isinstance(spec, FullAttentionSpec | MambaSpec) and _tokens_of_block(spec, dcp_world_size) > hash_block_size
        for group in groups
        for spec in layer_specs(group.kv_cache_spec)
    )


def _tokens_of_block(spec: KVCacheSpec, dcp_world_size: int) -> int:
    """Return how many tokens a block holds on all ranks that share it (B13)."""
    return spec.block_size * (dcp_world_size if spec.dcp_sharded else 1)


def ends_inside_blocks(groups: Sequence[KVCacheGroupSpec], hash_block_size: int, dcp_world_size: int) -> bool:
    """Return whether hits of a model may end inside a block, in behaviour 0.33 (B80).

    They may if a state covers more tokens than a hash, or as many on each of several ranks, unless another group can
    only be hit at ends of its blocks. O(layers).
    """
    layers = [(spec, group.kv_cache_spec) for group in groups for spec in layer_specs(group.kv_cache_spec)]
    has_states = any(
        isinstance(spec, MambaSpec)
        and spec.mamba_cache_mode == "align"
        and spec.block_size >= hash_block_size + (dcp_world_size == 1)
        for spec, _ in layers
    )
    return has_states and all(
        not group.prefix_cacheable
        or isinstance(spec, FullAttentionSpec | MambaSpec)
        or _tokens_of_block(spec, dcp_world_size) == hash_block_size
        for spec, group in layers
    )


def _of_several(specs: list[Any], ranks: int, cache: Any, vllm_config: Any) -> tuple[int, int]:
    """Return the sizes for more than one group."""
    if ranks != 1:
        raise ConfigError("context parallelism works with a single cache group only")
    sizes = [as_size("block_size", spec.block_size) for spec in specs]
    scheduler = as_size(f"the least multiple of block sizes {sizes},", lcm(*sizes))
    connector = getattr(vllm_config, "kv_transfer_config", None) is not None
    odd_mamba = any(isinstance(spec, MambaSpec) and spec.block_size != cache.block_size for spec in specs)
    if not (cache.enable_prefix_caching or connector) or odd_mamba:
        return scheduler, scheduler
    configured = getattr(cache, "hash_block_size", None)
    hash_size = gcd(*sizes) if configured is None else as_size("hash_block_size", configured)
    if any(size % hash_size for size in sizes):
        raise ConfigError(f"hash_block_size {hash_size} must divide every block size: {sizes}")
    return scheduler, hash_size
