"""What an engine says about its caches, and which groups serve it."""

from dataclasses import FrozenInstanceError

import pytest
from support.managers import HEADS, admit, cached_places, chunked, full, held, make_manager, make_request, mamba, window

from kvgpu.config.kv_cache_config import get_kv_cache_spec_kind, get_kv_cache_spec_sliding_window
from kvgpu.config.specs import (
    ChunkedLocalAttentionSpec,
    CrossAttentionSpec,
    EncoderOnlyAttentionSpec,
    FullAttentionSpec,
    HiddenStateCacheSpec,
    KVCacheSpecKind,
    MLAAttentionSpec,
    SinkFullAttentionSpec,
    SlidingWindowMLASpec,
    SlidingWindowSpec,
    TQFullAttentionSpec,
    UniformTypeKVCacheSpecs,
    cdiv,
)
from kvgpu.errors import ConfigError, UnknownNameError
from kvgpu.groups.chunked_local import ChunkedLocalAttentionManager
from kvgpu.groups.cross import CrossAttentionManager
from kvgpu.groups.full import FullAttentionManager
from kvgpu.groups.mamba import MambaManager
from kvgpu.groups.registry import layer_spec, manager_class
from kvgpu.groups.sink import SinkFullAttentionManager
from kvgpu.groups.sliding_window import SlidingWindowManager

SPECS = [
    (full(4), FullAttentionManager, "full_attention"),
    (TQFullAttentionSpec(4, **HEADS), FullAttentionManager, "full_attention"),
    (MLAAttentionSpec(4, **HEADS), FullAttentionManager, "mla_attention"),
    (HiddenStateCacheSpec(4, **HEADS), FullAttentionManager, "mla_attention"),
    (SinkFullAttentionSpec(4, **HEADS, sink_len=4), SinkFullAttentionManager, "sink_full_attention"),
    (window(4, 8), SlidingWindowManager, "sliding_window"),
    (SlidingWindowMLASpec(4, **HEADS, sliding_window=8), SlidingWindowManager, "sliding_window_mla"),
    (chunked(4, 8), ChunkedLocalAttentionManager, "chunked_local_attention"),
    (mamba(4), MambaManager, "mamba"),
    (CrossAttentionSpec(4, **HEADS), CrossAttentionManager, "cross_attention"),
]


def uniform(*specs):
    return UniformTypeKVCacheSpecs(4, {f"layer{i}": spec for i, spec in enumerate(specs)})


def name_of(value):
    return type(value).__name__ if isinstance(value, tuple(type(s) for s, _, _ in SPECS)) else ""


@pytest.mark.parametrize(("spec", "manager", "kind"), SPECS, ids=name_of)
def test_each_spec_has_a_manager_and_a_kind(spec, manager, kind):
    assert manager_class(spec) is manager
    assert get_kv_cache_spec_kind(spec).value == kind


def test_encoder_only_attention_has_a_kind_but_no_manager():
    spec = EncoderOnlyAttentionSpec(4, **HEADS)
    assert get_kv_cache_spec_kind(spec).value == "encoder_only_attention"
    with pytest.raises(UnknownNameError, match="EncoderOnlyAttentionSpec"):
        manager_class(spec)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: full(0), "block_size"),
        (lambda: mamba(-1), "block_size"),
        (lambda: full("4"), "block_size: an integer"),
        (lambda: full(4.0), "block_size: an integer"),
        (lambda: full(2**31), "block_size must be 1 to"),
        (lambda: window(4, 0), "sliding_window"),
        (lambda: window(4, None), "sliding_window: an integer"),
        (lambda: mamba(4, ["all"]), "one of none, all, align"),
        (lambda: UniformTypeKVCacheSpecs(4, {}), "kv_cache_specs"),
        (lambda: chunked(4, 0), "attention_chunk_size"),
        (lambda: mamba(4, "some"), "one of none, all, align, got 'some'"),
    ],
)
def test_sizes_and_modes_that_cannot_be_are_refused(make, words):
    with pytest.raises(ConfigError, match=words):
        make()


@pytest.mark.parametrize("spec", [full(4), window(4, 8), mamba(4)], ids=name_of)
def test_a_spec_does_not_change(spec):
    with pytest.raises(FrozenInstanceError):
        spec.block_size = 8


def test_equal_specs_are_equal_and_hash_alike():
    assert window(4, 8) == window(4, 8)
    assert hash(window(4, 8)) == hash(window(4, 8))
    assert len({full(4), full(8), window(4, 8), window(4, 9), MLAAttentionSpec(4, **HEADS)}) == 5


@pytest.mark.parametrize("spec", [full(4), window(4, 8), chunked(4, 8), mamba(4)], ids=name_of)
def test_a_copy_differs_in_its_block_size_only(spec):
    copy = spec.copy_with_new_block_size(16)
    assert (copy.block_size, type(copy)) == (16, type(spec))
    assert copy.copy_with_new_block_size(4) == spec


@pytest.mark.parametrize("kind", [FullAttentionSpec, SlidingWindowSpec], ids=str)
@pytest.mark.parametrize(("given", "expected"), [(None, 64), (32, 32)])
def test_values_have_the_size_of_keys_unless_given(kind, given, expected):
    extra = {"sliding_window": 8} if kind is SlidingWindowSpec else {}
    spec = kind(4, num_kv_heads=1, head_size=64, dtype=None, head_size_v=given, **extra)
    assert spec.head_size_v == expected


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (full(4), None),
        (FullAttentionSpec(4, **HEADS, sliding_window=6), 6),
        (window(4, 8), 8),
        (mamba(4), None),
        (uniform(window(4, 8), window(4, 8)), 8),
        (uniform(window(4, 8), window(4, 9)), None),
    ],
    ids=range(6),
)
def test_the_window_of_a_group_is_what_all_its_layers_have(spec, expected):
    assert get_kv_cache_spec_sliding_window(spec) == expected


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        (uniform(full(4), FullAttentionSpec(4, num_kv_heads=8, head_size=1, dtype=None)), "FULL"),
        (uniform(full(4), window(4, 8)), "UNKNOWN"),
    ],
    ids=["one kind", "two kinds"],
)
def test_the_kind_of_a_group_is_what_all_its_layers_have(spec, kind):
    expected = {"FULL": KVCacheSpecKind.FULL_ATTENTION, "UNKNOWN": KVCacheSpecKind.UNKNOWN}[kind]
    assert get_kv_cache_spec_kind(spec) is expected


def test_a_uniform_group_behaves_like_its_layers():
    spec = uniform(window(4, 8), window(4, 8))
    assert layer_spec(spec) == window(4, 8)
    assert manager_class(spec) is SlidingWindowManager
    manager = make_manager(spec)
    request = make_request("a", 17, 4)
    admit(manager, request)
    assert cached_places(manager, request) == {0, 1, 2, 3}
    manager.remove_skipped_blocks("a", 17)
    assert held(manager, request)[:3] == [0, 0, 3]


@pytest.mark.parametrize(("batched", "model_len", "in_window", "in_chunk"), [(64, 4096, 19, 18), (64, 40, 11, 10)])
def test_a_request_holds_a_window_or_chunk_and_one_step(batched, model_len, in_window, in_chunk):
    """Blocks of 4, window and chunk of 8; a window may begin within a block."""
    assert window(4, 8).max_admission_blocks_per_request(batched, model_len) == in_window
    assert chunked(4, 8).max_admission_blocks_per_request(batched, model_len) == in_chunk


@pytest.mark.parametrize(("a", "b", "expected"), [(0, 4, 0), (1, 4, 1), (4, 4, 1), (5, 4, 2)])
def test_cdiv_rounds_up(a, b, expected):
    assert cdiv(a, b) == expected


def test_chunked_local_attention_takes_its_chunk_by_name():
    spec = ChunkedLocalAttentionSpec(4, **HEADS, attention_chunk_size=8)
    assert spec == chunked(4, 8)
