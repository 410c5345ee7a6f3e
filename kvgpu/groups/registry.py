"""Which manager serves which spec."""

from typing import Any

from kvgpu.config.specs import (
    ChunkedLocalAttentionSpec,
    CrossAttentionSpec,
    FullAttentionSpec,
    HiddenStateCacheSpec,
    KVCacheSpec,
    MambaSpec,
    MLAAttentionSpec,
    SinkFullAttentionSpec,
    SlidingWindowMLASpec,
    SlidingWindowSpec,
    TQFullAttentionSpec,
    UniformTypeKVCacheSpecs,
)
from kvgpu.errors import UnknownNameError
from kvgpu.groups.base import SingleTypeKVCacheManager
from kvgpu.groups.chunked_local import ChunkedLocalAttentionManager
from kvgpu.groups.cross import CrossAttentionManager
from kvgpu.groups.full import FullAttentionManager
from kvgpu.groups.mamba import MambaManager
from kvgpu.groups.sink import SinkFullAttentionManager
from kvgpu.groups.sliding_window import SlidingWindowManager

spec_manager_map: dict[type[KVCacheSpec], type[Any]] = {
    FullAttentionSpec: FullAttentionManager,
    TQFullAttentionSpec: FullAttentionManager,
    MLAAttentionSpec: FullAttentionManager,
    HiddenStateCacheSpec: FullAttentionManager,
    SlidingWindowSpec: SlidingWindowManager,
    SlidingWindowMLASpec: SlidingWindowManager,
    ChunkedLocalAttentionSpec: ChunkedLocalAttentionManager,
    MambaSpec: MambaManager,
    CrossAttentionSpec: CrossAttentionManager,
    SinkFullAttentionSpec: SinkFullAttentionManager,
}


def layer_spec(spec: KVCacheSpec) -> KVCacheSpec:
    """Return the spec that decides how a group behaves; for a uniform-type group, the spec of one of its layers."""
    return spec.representative if isinstance(spec, UniformTypeKVCacheSpecs) else spec


def manager_class(spec: KVCacheSpec) -> type[SingleTypeKVCacheManager]:
    """Return the manager class for groups of this spec.

    Raises:
        UnknownNameError: No manager serves the spec; the message lists the specs that are served.
    """
    try:
        found: type[SingleTypeKVCacheManager] = spec_manager_map[type(layer_spec(spec))]
    except KeyError:
        known = [known.__name__ for known in spec_manager_map]
        raise UnknownNameError("cache group spec", type(spec).__name__, known) from None
    return found


def get_manager_for_kv_cache_spec(
    kv_cache_spec: KVCacheSpec, max_num_batched_tokens: int, max_model_len: int, **kwargs: Any
) -> SingleTypeKVCacheManager:
    """Make the manager of one group, with its admission cap (fact 50).

    Args:
        kv_cache_spec: Spec of the group.
        max_num_batched_tokens: Largest number of tokens in one step.
        max_model_len: Length of the longest sequence, in tokens.
        kwargs: Further arguments of the manager.
    """
    spec = layer_spec(kv_cache_spec)
    if isinstance(spec, SlidingWindowSpec | ChunkedLocalAttentionSpec):
        kwargs["max_admission_blocks_per_request"] = spec.max_admission_blocks_per_request(
            max_num_batched_tokens, max_model_len
        )
    return manager_class(spec)(spec, **kwargs)
