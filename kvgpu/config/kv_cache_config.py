"""`KVCacheConfig`: the cache groups of a model, and the blocks that they share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from kvgpu.config.specs import AttentionSpec, KVCacheSpec, KVCacheSpecKind, MambaSpec, UniformTypeKVCacheSpecs


def layer_specs(spec: KVCacheSpec) -> list[KVCacheSpec]:
    """Return the specs of the layers of a group. O(layers)."""
    return list(spec.kv_cache_specs.values()) if isinstance(spec, UniformTypeKVCacheSpecs) else [spec]


@dataclass
class KVCacheTensor:
    """One buffer of `size` bytes, shared by the layers named in `shared_by`."""

    size: int
    shared_by: list[str]


@dataclass
class KVCacheGroupSpec:
    """Layers that share a block table. `is_eagle_group`: the drafter's layers are among them."""

    layer_names: list[str]
    kv_cache_spec: KVCacheSpec
    is_eagle_group: bool = False


class KVCacheBlockCopy(NamedTuple):
    """A worker copies one block to another one before its step."""

    src_block_id: int
    dst_block_id: int


@dataclass
class KVCacheConfig:
    """Number of blocks of the pool (one of them becomes the null block), tensors and groups.

    `prefix_cache_retention_interval`, which only behaviour 0.33 reads: tokens between the positions of a prompt that
    stay cached in groups with a window or a state; 0 for only its end, None for all of them.
    """

    num_blocks: int
    kv_cache_tensors: Sequence[KVCacheTensor]
    kv_cache_groups: list[KVCacheGroupSpec]
    prefix_cache_retention_interval: int | None = None

    @property
    def needs_kv_cache_zeroing(self) -> bool:
        """Whether behaviour 0.33 zeroes new blocks: states are read before they are written, and a block may have held
        numbers of another precision."""
        specs = [spec for group in self.kv_cache_groups for spec in layer_specs(group.kv_cache_spec)]
        precisions = [(spec.dtype, spec.kv_quant_mode) for spec in specs if isinstance(spec, AttentionSpec)]
        is_mixed = any(precision != precisions[0] for precision in precisions)
        return is_mixed or any(isinstance(spec, MambaSpec) for spec in specs)


def _of_layers(spec: KVCacheSpec, read: Callable[[KVCacheSpec], Any], mixed: Any) -> Any:
    """Return what `read` returns for a spec, or for all layers of a uniform-type group; `mixed` if these differ."""
    values = {read(layer) for layer in layer_specs(spec)}
    return values.pop() if len(values) == 1 else mixed


def get_kv_cache_spec_kind(kv_cache_spec: KVCacheSpec) -> KVCacheSpecKind:
    """Return the kind of a group; UNKNOWN for a uniform-type group of several kinds."""
    kind: KVCacheSpecKind
    kind = _of_layers(kv_cache_spec, lambda spec: spec.kind, KVCacheSpecKind.UNKNOWN)
    return kind


def get_kv_cache_spec_sliding_window(kv_cache_spec: KVCacheSpec) -> int | None:
    """Return the window of a group in tokens; None if it has none or its layers differ."""
    window: int | None
    window = _of_layers(kv_cache_spec, lambda spec: getattr(spec, "sliding_window", None), None)
    return window
