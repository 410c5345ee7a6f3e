"""vLLM's cache configuration as kvgpu's: each spec becomes the class of the same name."""

from dataclasses import fields
from typing import Any

from vllm.v1 import kv_cache_interface
from vllm.v1.core import single_type_kv_cache_manager as group_managers
from vllm.v1.kv_cache_spec_registry import KVCacheSpecRegistry

from kvgpu.config import specs
from kvgpu.config.kv_cache_config import KVCacheConfig, KVCacheGroupSpec
from kvgpu.config.specs import KVCacheSpec, UniformTypeKVCacheSpecs
from kvgpu.errors import ConfigError, UnknownNameError
from kvgpu.groups.registry import spec_manager_map

_OWN_RULES = ("max_admission_blocks_per_request",)
"""Methods of a spec that decide about blocks; a class of another package that brings its own is not modelled."""


def _counterpart(spec: Any) -> type[KVCacheSpec]:
    """
    Raises:
        ConfigError: kvgpu does not model the blocks of this spec.
    """
    kind = type(spec)
    base = next((each for each in kind.__mro__ if each.__module__ == kv_cache_interface.__name__), object)
    ours: type[KVCacheSpec] | None = getattr(specs, base.__name__, None)
    if ours not in spec_manager_map:
        raise UnknownNameError("spec of vLLM", kind.__name__, [known.__name__ for known in spec_manager_map])
    manager = KVCacheSpecRegistry.get_manager_class(spec)
    if manager is None or manager.__name__ != spec_manager_map[ours].__name__:
        raise ConfigError(f"{kind.__name__} is served by a manager of its own, {manager}")
    if manager is not getattr(group_managers, manager.__name__, None):
        raise ConfigError(f"{kind.__name__} is served by a manager of another package, {manager}")
    for name in _OWN_RULES:
        if getattr(kind, name, None) is not getattr(base, name, None):
            raise ConfigError(f"{kind.__name__} has a rule of its own, {name}")
    return ours


def _spec_of(spec: Any) -> KVCacheSpec:
    """
    Raises:
        ConfigError: kvgpu does not model the blocks of this spec.
    """
    if type(spec) is kv_cache_interface.UniformTypeKVCacheSpecs:
        layers = {name: _spec_of(layer) for name, layer in spec.kv_cache_specs.items()}
        return UniformTypeKVCacheSpecs(spec.block_size, layers)
    ours = _counterpart(spec)
    return ours(**{each.name: getattr(spec, each.name) for each in fields(ours) if each.init})


def config_of(config: Any) -> KVCacheConfig:
    """Return vLLM's `KVCacheConfig` as kvgpu's. O(groups).

    Raises:
        ConfigError: kvgpu does not model one of its groups; the message says which, and why.
    """
    groups = [
        KVCacheGroupSpec(group.layer_names, _spec_of(group.kv_cache_spec), group.is_eagle_group)
        for group in config.kv_cache_groups
    ]
    return KVCacheConfig(config.num_blocks, config.kv_cache_tensors, groups)
