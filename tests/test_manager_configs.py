"""Configurations of a manager: which are refused, with which error, and the smallest that is not."""

import pytest
from support.managers import HEADS, full, make_config, make_manager, make_request, window

from kvgpu import errors
from kvgpu.config.specs import CrossAttentionSpec, EncoderOnlyAttentionSpec
from kvgpu.hashing.functions import get_hash_fn_by_name
from kvgpu.manager import KVCacheManager


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_model_len": 0}, "max_model_len must be 1 to"),
        ({"max_model_len": -1}, "max_model_len must be 1 to"),
        ({"scheduler_block_size": 0}, "scheduler_block_size must be 1 to"),
        ({"hash_block_size": 0}, "hash_block_size must be 1 to"),
        ({"num_blocks": 0}, "num_gpu_blocks must be 1 to"),
        ({"num_blocks": -5}, "num_gpu_blocks must be 1 to"),
    ],
)
def test_sizes_below_one_are_refused(options, words):
    with pytest.raises(errors.ConfigError, match=words):
        make_manager(full(4), **options)


@pytest.mark.parametrize(
    ("specs", "hash_size", "words"),
    [
        ([full(8), window(12, 12)], 8, "block_size 12 of group 1 .* hash_block_size 8"),
        ([full(6)], 4, "hash_block_size 4 must equal the block size 6"),
    ],
)
def test_a_block_size_that_is_no_multiple_of_the_hash_block_is_refused(specs, hash_size, words):
    with pytest.raises(errors.ConfigError, match=words):
        make_manager(*specs, hash_block_size=hash_size)


def test_an_unknown_backend_is_refused_with_the_known_ones():
    with pytest.raises(errors.UnknownNameError, match=r"'cuda9'; known: auto, cuda, host, reference, triton"):
        make_manager(full(4), backend="cuda9")


def test_an_unknown_backend_in_the_environment_is_refused(monkeypatch):
    monkeypatch.setenv("KVGPU_BACKEND", "cuda9")
    with pytest.raises(errors.UnknownNameError, match="cuda9"):
        make_manager(full(4))


def test_an_unknown_hash_function_is_refused_with_the_known_ones():
    known = "kvgpu128, sha256, sha256_cbor, xxhash, xxhash_cbor"
    with pytest.raises(errors.UnknownNameError, match=f"'md5'; known: {known}"):
        get_hash_fn_by_name("md5")


def test_a_spec_that_no_group_serves_is_refused_with_the_known_ones():
    with pytest.raises(errors.UnknownNameError, match=r"EncoderOnly.*FullAttentionSpec.*MambaSpec"):
        make_manager(EncoderOnlyAttentionSpec(4, **HEADS))


def test_a_spec_without_a_block_size_is_refused():
    with pytest.raises(errors.ConfigError, match="block_size must be 1 to"):
        full(0)


def test_cross_attention_with_prefix_caching_is_a_configuration_that_cannot_work():
    with pytest.raises(errors.ConfigError, match="cross attention"):
        make_manager(CrossAttentionSpec(4, **HEADS))


def test_a_pool_of_one_block_can_be_made_but_serves_nobody():
    manager = KVCacheManager(make_config(full(4), num_blocks=1), 100, 4, 4)
    assert manager.usage == 0.0
    assert manager.allocate_slots(make_request("a", 1, 4), 1) is None
